"""Regret: what a silo loses when its experts are averaged with those of others.

A silo scores its held-out probe twice: under the experts as it has just trained them, and under
what the server made of everybody's. The difference is its negative transfer of one round. A silo
whose running average stays above a threshold, and above its own noise, is dissatisfied: no
shared expert serves it. Everything here is the silo's own; only the verdict is counted, in a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fedvemoe_app.em.gain import standard_error
from fedvemoe_app.em.lifecycle.orders import Notice
from fedvemoe_app.em.lifecycle.rules import Rules

CONTENT = -1
"""The side of a silo that is not dissatisfied."""


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a silo keeps between the exchanges of the lifecycle; it never leaves the silo.

    ``round`` of the last assessment; ``regret`` the running average, nats per token, over
    ``observations``; ``main`` the slot that it trains most, and its ``side`` there. Of the bank
    it holds: ``slots [K]``, and the probe ``log_lik [T, K]`` (one column more under a
    candidate) with ``owners [T]``. Of its last training: ``local [T]`` its tokens' scores, and
    its ``wishes [K, d]``; both are empty until it has trained.
    """

    round: int
    regret: float
    observations: int
    main: int
    side: int
    slots: Tensor
    log_lik: Tensor
    owners: Tensor
    local: Tensor
    wishes: Tensor

    def arrays(self) -> dict[str, Tensor]:
        """Return the memory as float64 tensors by name."""
        own = [self.round, self.regret, self.observations, self.main, self.side]
        return {
            "own": torch.tensor(own, dtype=torch.float64),
            "slots": self.slots.to(torch.float64),
            "log_lik": self.log_lik.to(torch.float64),
            "owners": self.owners.to(torch.float64),
            "local": self.local,
            "wishes": self.wishes,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """Return the memory that ``arrays`` holds; KeyError where a tensor is missing."""
        round_, regret, observations, main, side = arrays["own"].tolist()
        return cls(
            *(int(round_), regret, int(observations), int(main), int(side)),
            slots=arrays["slots"].long(),
            log_lik=arrays["log_lik"],
            owners=arrays["owners"].long(),
            local=arrays["local"],
            wishes=arrays["wishes"],
        )

    def trained(self, local: Tensor, wishes: Tensor) -> Self:
        """Return the memory after a training; scores that are no numbers are none."""
        sound = bool(torch.isfinite(local).all())
        return replace(self, local=local if sound else local[:0], wishes=wishes)


def observed(
    last: Memory | None, notice: Notice, now: Tensor, owners: Tensor, main: int, rules: Rules
) -> tuple[float, int, bool]:
    """Return regret, observations and dissatisfaction after the assessment that ``notice`` orders.

    ``now`` [T] are the tokens' scores under the new bank. A silo that did not train in this round
    learns nothing of its regret; one whose main expert an event has touched starts anew.
    """
    if last is None or _touched(last, notice):
        return 0.0, 0, False
    if last.round != notice.round - 1 or len(last.local) != len(now) or not len(now):
        return last.regret, last.observations, False
    loss = last.local - now
    first = last.observations == 0
    regret = float(loss.mean()) if first else rules.averaged(last.regret, float(loss.mean()))
    seen = last.observations + 1
    least = max(rules.regret_threshold, standard_error(loss, owners))
    return regret, seen, seen >= rules.observations and regret > least


def _touched(last: Memory, notice: Notice) -> bool:
    if last.main not in notice.slots:
        return True
    return notice.since[notice.slots.index(last.main)] > last.round


def side_of(last: Memory | None, notice: Notice, main: int) -> int:
    """Return on which side of its main expert's wishes a silo stood, or CONTENT."""
    if last is None or last.round != notice.round - 1 or not len(last.wishes):
        return CONTENT
    known = last.slots.tolist()
    axis = notice.axis[notice.slots.index(main)]
    if main not in known or not bool(axis.any()) or not bool(last.wishes[known.index(main)].any()):
        return CONTENT
    level = float(notice.level[notice.slots.index(main)])
    return int(float(last.wishes[known.index(main)] @ axis) > level)
