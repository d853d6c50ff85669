"""Where a run's bank stands between two rounds: what a checkpoint holds of it.

Closed slots are left out: nothing reads them before an expert is born there. Silos hold the bank as
it went out in the last assessment; where its sums changed it since, that is kept beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.strategies.method import Remembering, ServerRule

BANK, SENT, OLD, START = "experts/", "sent/", "old/", "start/"


@dataclass(slots=True)
class Standing:
    """The bank, the living experts as they were ``sent`` last, and what silos start from."""

    bank: Bank
    sent: Bank | None = None
    start: dict[str, Tensor] = field(default_factory=dict)

    def state(self) -> State:
        """Return all of it, of the bank its living experts."""
        living, sent = self.bank.living(), self.sent or self.bank.living()
        changed = _changed(living, sent)
        arrays = {
            **_under(BANK, living.experts),
            "alive": self.bank.alive,
            "prior": self.bank.prior,
            f"{SENT}prior": sent.prior,
            f"{SENT}changed": changed,
            **_under(OLD, {name: stack[changed] for name, stack in sent.experts.items()}),
            **_under(START, self.start),
        }
        return State(arrays, {})

    def restore(self, state: State) -> None:
        """Go on from there; closed slots stay as they are."""
        arrays = state.arrays
        bank = replace(self.bank, alive=arrays["alive"], prior=arrays["prior"])
        living = replace(bank.living(), experts=_of(BANK, arrays))
        self.bank = bank.with_living(living)
        changed, old = arrays[f"{SENT}changed"], _of(OLD, arrays)
        experts = {n: stack.index_copy(0, changed, old[n]) for n, stack in living.experts.items()}
        self.sent = replace(living, experts=experts, prior=arrays[f"{SENT}prior"])
        self.start = _of(START, arrays)


@dataclass(frozen=True, slots=True)
class Rule:
    """The server's rule as a part with a state."""

    rule: ServerRule

    def state(self) -> State:
        """Return its moments, if it keeps any."""
        return State(self.rule.arrays() if isinstance(self.rule, Remembering) else {}, {})

    def restore(self, state: State) -> None:
        """Go on from its moments."""
        if isinstance(self.rule, Remembering):
            self.rule.restore(state.arrays)


def _changed(one: Bank, other: Bank) -> Tensor:
    """Return the columns in which two banks of living experts differ."""
    found = [
        column
        for column in range(len(one.alive))
        if any(not torch.equal(one.experts[n][column], x[column]) for n, x in other.experts.items())
    ]
    return torch.tensor(found, dtype=torch.int64)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _of(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {name: tensor for name, tensor in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}
