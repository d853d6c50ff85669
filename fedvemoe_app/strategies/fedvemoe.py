"""Fed-VEMoE: federated variational EM over a bank of experts, with a private slot."""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.method import Method, Personal, weighted_mean

PRIVATE: dict[str, Personal] = {"off": "none", "local": "local", "tuned": "tuned"}


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return Method(
        "fedvemoe",
        weighted_mean(config),
        personal=PRIVATE[config.method.private_slot],
        lifecycle=True,
        reads=("server-learning-rate", "private-slot", "expert-weight", "responsibility-rule"),
    )
