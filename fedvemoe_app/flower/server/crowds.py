"""How many silos train each expert, as last counted: which experts may be summed.

A sum over fewer than c-min silos tells of each of them. Counts belong to one structure of the bank:
once an expert was born or closed they hold no longer, and nothing is summed until the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import spread
from fedvemoe_app.flower.shelf import State


class Crowds:
    """Counts of one run, by slot.

    Parameters
    ----------
    slots
        Slots of the bank.
    least
        Silos that a sum of an expert's changes needs: c-min.

    Attributes
    ----------
    counted
        The silos [K] by which the last order to train went.

    """

    def __init__(self, slots: int, least: int) -> None:
        self._least = least
        self._members = self._contributors = self.counted = torch.zeros(slots, dtype=torch.float64)

    def began(self, members: Tensor, bank: Bank) -> None:
        """Take the silos [m] that train each living expert in the warm-up."""
        self._members = _by_slot(members, bank)

    def left(self, silos: int) -> None:
        """Note that silos went or are not back: each may be missing from any expert counted."""
        self._members = self._members - silos
        self._contributors = self._contributors - silos

    def assessed(self, contributors: Tensor, bank: Bank) -> None:
        """Take the silos [m] that will train each living expert."""
        self._contributors = _by_slot(contributors, bank)

    def trained(self, held: Bank, bank: Bank) -> None:
        """Forget the counts where the structure changed from ``held`` to ``bank``."""
        if held.slots != bank.slots:
            self._contributors = torch.zeros_like(self._contributors)

    def crowded(self, bank: Bank, *, warming: bool) -> Tensor:
        """Return which living experts [m] have a crowd in the coming training round."""
        self.counted = self._members if warming else self._contributors
        return self.counted[bank.slots] >= self._least

    def state(self) -> State:
        """Return the counts."""
        return State({"members": self._members, "contributors": self._contributors}, {})

    def restore(self, state: State) -> None:
        """Go on from counts."""
        self._members, self._contributors = (
            state.arrays[name] for name in ("members", "contributors")
        )


def _by_slot(counts: Tensor, bank: Bank) -> Tensor:
    return spread(counts.to(torch.float64), torch.tensor(bank.slots), len(bank.alive))
