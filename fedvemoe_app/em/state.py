"""The bank: what the next round needs to know."""

from __future__ import annotations

from collections.abc import Mapping
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

    def born(self, slot: int, expert: Mapping[str, Tensor]) -> Self:
        """Return the bank with ``expert`` [1, ...] alive in ``slot``, its prior mass 1 / (K + 1).

        The others keep their proportions, so the prior still sums to one.
        """
        share = 1.0 / (len(self.slots) + 1)
        prior = self.prior * (1.0 - share)
        prior[slot] = share
        alive = self.alive.clone()
        alive[slot] = True
        return replace(self.adopt(slot, expert), alive=alive, prior=prior)

    def without(self, slot: int, shares: Tensor) -> Self:
        """Return the bank with ``slot`` closed and its prior given to the others by ``shares`` [K].

        Shares need not sum to one; where no living other has a share, all get theirs in
        proportion to their prior. The parameters stay in the slot until it is used again.
        """
        alive = self.alive.clone()
        alive[slot] = False
        shares = torch.where(alive, shares, 0.0)
        if float(shares.sum()) <= 0.0:
            shares = torch.where(alive, self.prior, 0.0)
        if float(shares.sum()) <= 0.0:
            shares = alive.to(torch.float64)
        prior = torch.where(alive, self.prior + self.prior[slot] * shares / shares.sum(), 0.0)
        return replace(self, alive=alive, prior=prior)

    def adopt(self, slot: int, expert: Mapping[str, Tensor]) -> Self:
        """Return the bank in which ``expert`` [1, ...] stands in ``slot``."""
        at = torch.tensor([slot])
        experts = {
            name: stack.index_copy(0, at, expert[name].to(stack.dtype)) if name in expert else stack
            for name, stack in self.experts.items()
        }
        return replace(self, experts=experts)

    def expert(self, slot: int) -> dict[str, Tensor]:
        """Return the tensors [1, ...] of one slot."""
        return {name: stack[slot : slot + 1] for name, stack in self.experts.items()}
