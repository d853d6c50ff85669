"""FedAvg on one adapter (McMahan et al. 2017; FedIT's form for LoRA, Zhang et al. 2024).

Bit for bit what Fed-VEMoE does with one expert and no private slot.
"""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.method import Method, weighted_mean


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return Method("fedavg", weighted_mean(config), one_expert=True)
