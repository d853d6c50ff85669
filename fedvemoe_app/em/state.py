"""The bank: what the next round needs to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Expert slots, of which some are alive.

    ``experts`` by tensor name, each [K, ...] with K slots; ``alive [K]`` bool; ``prior [K]``
    float64, sums to one over the living and is zero elsewhere.
    """

    experts: dict[str, Tensor]
    alive: Tensor
    prior: Tensor

    @classmethod
    def start(cls, experts: dict[str, Tensor], *, alive: int) -> Self:
        """Return a bank whose first ``alive`` slots live, under a uniform prior."""
        size = len(next(iter(experts.values())))
        living = torch.arange(size) < alive
        return cls(experts, living, living.to(torch.float64) / alive)

    @property
    def slots(self) -> list[int]:
        """The living slots, in order."""
        return torch.nonzero(self.alive).flatten().tolist()

    def living(self) -> Self:
        """Return the bank of the living experts alone: what a silo gets to see."""
        slots = torch.tensor(self.slots)
        experts = {name: stack[slots] for name, stack in self.experts.items()}
        return replace(self, experts=experts, alive=self.alive[slots], prior=self.prior[slots])

    def with_living(self, living: Self) -> Self:
        """Return the bank in which the living experts and their prior are those of ``living``."""
        slots = torch.tensor(self.slots)
        experts = {
            n: stack.index_copy(0, slots, living.experts[n]) for n, stack in self.experts.items()
        }
        return replace(self, experts=experts, prior=self.prior.index_copy(0, slots, living.prior))

    def with_mass(self, mass: Tensor, silos: float, *, concentration: float = 1.0) -> Self:
        """Return the bank with the prior that ``mass`` [K], summed over ``silos``, implies.

        ``pi_k = (sum_i r_ik + a / K) / (N + a)`` over the K living experts (method-details.md,
        1.3), the mode of the Dirichlet posterior in its finite Dirichlet-process form.
        """
        share = concentration / len(self.slots)
        prior = torch.where(self.alive, (mass + share) / (silos + concentration), 0.0)
        return replace(self, prior=prior / prior.sum())
