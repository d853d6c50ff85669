"""The thresholds of birth, prune and merge, and the record of one such event.

Every judgement is in one currency: nats per target token of held-out, cross-fitted score, summed
over the silos (method.md, "Birth, prune, merge").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["birth", "accept", "close", "prune", "merge", "full"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When the bank changes.

    Parameters
    ----------
    regret_threshold
        Nats per token above which a silo's averaged regret makes it dissatisfied.
    birth_worth, prune_worth
        Worth (nats per token summed over silos) that a new expert must reach at the end of its
        trial, and below which an old one is due to go; the first is the larger.
    trial_rounds, patience, cool_down, warm_up
        Rounds that a trial lasts, that an expert must be worth too little, between two events,
        and before the first.
    certainty
        Standard errors (over the probes' examples) below which an old expert's worth is none.
    merge_share, entangled
        Share of a closing expert's mass that one other must take for a merge; and likeness in
        use (cosine over silos) from which two experts are tried as one though each has its worth.
    unused
        Mass (of all silos, one each) below which nobody misses an expert that is due to go.
    c_min
        Fewest silos in any sum of vectors; a birth needs two in any case.
    memory
        Weight of the newest value in every running average.
    sketch_size, seed
        Numbers in a wish, and the seed of the public projection that makes them.

    """

    regret_threshold: float = 0.01
    birth_worth: float = 0.05
    prune_worth: float = 0.02
    certainty: float = 2.0
    trial_rounds: int = 4
    patience: int = 3
    cool_down: int = 3
    warm_up: int = 3
    merge_share: float = 0.6
    entangled: float = 0.9
    unused: float = 0.1
    c_min: int = 1
    memory: float = 0.4
    observations: int = 3
    sketch_size: int = 16
    seed: int = 0

    @property
    def crowd(self) -> int:
        """Silos that a birth needs."""
        return max(2, self.c_min)

    def averaged(self, old: float, new: float) -> float:
        """Return the running average after one more value."""
        return (1 - self.memory) * old + self.memory * new


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the bank: which slots, and why in a sentence with the numbers it rests on."""

    kind: Kind
    slots: tuple[int, ...]
    why: str
    numbers: dict[str, float] = field(default_factory=dict)
