"""IFCA (Ghosh et al. 2020): each silo trains, and predicts with, its expert of least loss.

The loss is that of the silo's probe; experts move by a weighted mean over their silos.
"""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.method import Method, weighted_mean


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return Method("ifca", weighted_mean(config), rule="argmin", told_apart=True)
