"""FedYogi (Reddi et al. 2021): FedAdam with a second moment that moves by its sign.

Flower's own class does the arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies import flower_class
from fedvemoe_app.strategies.method import Method


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return replace(flower_class.method(config, "FedYogi"), name="fedyogi")
