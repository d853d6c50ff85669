"""Ditto (Li et al. 2021): FedAvg's adapter w, and at each silo an own one v pulled towards it.

v is trained with ``lambda/2 |v - w|^2`` on the same batches as w, never leaves the silo, and is
what the silo predicts with.
"""

from __future__ import annotations

from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies import fedavg
from fedvemoe_app.strategies.method import Method


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    plain = fedavg.method(config)
    return replace(
        plain,
        name="ditto",
        personal="ditto",
        attraction=config.method.ditto_lambda,
        predict="personal",
        reads=(*plain.reads, "ditto-lambda"),
    )
