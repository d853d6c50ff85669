"""What the server knows of each expert's life, from sums alone; a checkpoint holds all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.em.state import Bank

PLANS = ("none", "birth", "close", "prune", "merge", "absorb", "drop")
Plan = Literal["none", "birth", "close", "prune", "merge", "absorb", "drop"]
NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Lifecycle:
    """State of the lifecycle after a round; K runs over all slots of the bank.

    ``age [K]`` assessments since birth; ``worth [K]`` the running average of D_k, NaN where
    nothing was seen yet; ``price [K]`` what it had to be when last seen; ``below [K]``
    assessments in a row with too little worth; ``since [K]`` the round of the last event that
    touched an expert; ``axis [K, d]`` and ``level [K]`` the sides of the last wishes.

    ``rest`` rounds of cool-down left, ``hold`` rounds until the next birth may be tried, ``wait``
    how long it takes after a rejection. ``trial`` is the slot on trial, ``edge`` its running
    worth, and ``rising`` says that the last assessment was above it. ``plan`` is what the end of
    the next training round will do to ``slot``: a birth from this parent by ``side``, a close, a
    prune, a drop of what nobody uses, or to try it merged with ``other`` (``due`` says it would be
    pruned otherwise), or to close it after that merge; its mass goes by ``shares [K]``.
    ``alone``: the parent's own sum rests in that round. ``candidate`` is the merged expert under
    assessment, and ``adopting`` says that the silos are yet to be told to take it; ``apart``
    rounds until two experts may be tried that are not due. ``full`` remembers that being out of
    slots was reported.
    """

    age: Tensor
    worth: Tensor
    price: Tensor
    below: Tensor
    since: Tensor
    axis: Tensor
    level: Tensor
    shares: Tensor
    round: int = 0
    rest: int = 0
    hold: int = 0
    wait: int = 0
    trial: int = NONE
    edge: float = 0.0
    rising: bool = False
    plan: Plan = "none"
    slot: int = NONE
    side: int = 0
    other: int = NONE
    due: bool = False
    apart: int = 0
    alone: bool = False
    adopting: bool = False
    full: bool = False
    candidate: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, slots: int, rules: Rules) -> Self:
        """Return the state before the first round of a bank of ``slots`` slots."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.float64)

        nothing = torch.full((slots,), torch.nan, dtype=torch.float64)
        axis = zeros(rules.sketch_size)
        tensors = (zeros(), nothing, zeros(), zeros(), zeros(), axis, zeros(), zeros())
        return cls(*tensors, wait=rules.cool_down)

    def notice(self, bank: Bank) -> Notice:
        """Return what goes to the silos with ``bank``, to be assessed in this round."""
        slots = bank.slots
        living = torch.tensor(slots)
        return Notice(
            round=self.round,
            slots=tuple(slots),
            since=tuple(int(one) for one in self.since[living].tolist()),
            axis=self.axis[living],
            level=self.level[living],
            trial=slots.index(self.trial) if self.trial != NONE else None,
            leaving=slots.index(self.slot) if self.candidate else None,
            into=slots.index(self.other) if self.candidate else None,
            candidate=self.candidate,
        )

    def call(self) -> Call:
        """Return what goes to the silos with the order to train."""
        if self.plan == "birth":
            return Call(self.adopting, self.slot, self.side)
        return Call(self.adopting)

    def open(self, crowded: Tensor, bank: Bank) -> Tensor:
        """Return which living experts [m] are summed, of those with a crowd of contributors [m].

        A parent rests in the round of its birth where those who do not seed are no crowd:
        seeds and sum together would tell of them.
        """
        if self.plan == "birth" and self.alone:
            return crowded & (torch.tensor(bank.slots) != self.slot)
        return crowded

    def renewed(self, *touched: int) -> Self:
        """Return the state after an event that touched these slots: all worth is learnt anew."""
        since = self.since.clone()
        since[list(touched)] = self.round
        return replace(self, since=since).forgetting(torch.ones_like(since, dtype=torch.bool))

    def forgetting(self, which: Tensor) -> Self:
        """Return the state that knows nothing of the worth of the slots ``which`` [K]."""
        worth = torch.where(which, torch.nan, self.worth)
        return replace(self, worth=worth, below=torch.where(which, 0.0, self.below))

    def arrays(self) -> dict[str, Tensor]:
        """Return the state as float64 tensors by name; the candidate's are ``candidate/name``."""
        numbers = [float(getattr(self, name)) for name in _NUMBERS]
        flat = {name: getattr(self, name) for name in _TENSORS}
        flat["numbers"] = torch.tensor([*numbers, PLANS.index(self.plan)], dtype=torch.float64)
        return flat | {f"candidate/{name}": tensor for name, tensor in self.candidate.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """Return the state that ``arrays`` holds; KeyError where a tensor is missing."""
        *numbers, plan = arrays["numbers"].tolist()
        plain = {name: _NUMBERS[name](x) for name, x in zip(_NUMBERS, numbers, strict=True)}
        own = {n.removeprefix("candidate/"): x for n, x in arrays.items() if "candidate/" in n}
        tensors = {name: arrays[name] for name in _TENSORS}
        return cls(**tensors, **plain, plan=PLANS[int(plan)], candidate=own)  # type: ignore[arg-type]


_TENSORS = ("age", "worth", "price", "below", "since", "axis", "level", "shares")
_NUMBERS: dict[str, type[int] | type[float] | type[bool]] = {
    **dict.fromkeys(
        ("round", "rest", "hold", "wait", "trial", "slot", "side", "other", "apart"), int
    ),
    "edge": float,
    **dict.fromkeys(("rising", "due", "alone", "adopting", "full"), bool),
}
