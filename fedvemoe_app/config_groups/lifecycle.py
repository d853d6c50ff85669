"""The settings of birth, prune and merge; what they decide is in ``em.lifecycle``."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting


@dataclass(frozen=True, slots=True)
class LifecycleSettings:
    """Birth, prune and merge of experts."""

    lifecycle: bool = setting(True, "let experts be born, pruned and merged during the run")
    regret_threshold: float = setting(
        0.01, "nats per token that averaging may cost a silo before it is dissatisfied", low=0.0
    )
    birth_worth: float = setting(
        0.05, "nats per token, summed over silos, that a new expert must be worth", low=0.0
    )
    prune_worth: float = setting(
        0.02,
        "nats per token, summed over silos, below which an expert is due to go, "
        "or two standard errors where those are more",
        low=0.0,
    )
    trial_rounds: int = setting(4, "rounds that a new expert is on trial", low=1)
    patience: int = setting(3, "rounds that an expert must be due before it goes", low=1)
    cool_down: int = setting(3, "rounds between two changes of the bank", low=0)
    quiet_rounds: int = setting(3, "first rounds without a change of the bank", low=0)
    merge_share: float = setting(
        0.6, "share of its mass that one expert must take for a merge", low=0.0, high=1.0
    )
