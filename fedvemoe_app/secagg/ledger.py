"""What must never happen again at a silo, over all of its runs: old sessions, and second sums.

It outlives a run where the silo has a place for it, and it is bounded: of old runs it is known only
that they are over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from fedvemoe_app.secagg.codec import is_int, is_map, pack, unpack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.spec import SessionSpec

MAX_RUNS = 16
"""Runs whose newest session is remembered; whatever is not newer than a forgotten one is over."""
MAX_MODELS = 1024
"""Models of which it is remembered for whom they were unmasked; two for each round of a run."""


@dataclass(slots=True)
class Ledger:
    """The newest session by run and phase, and the survivors by model; both oldest first.

    ``over`` is the newest run that was forgotten.
    """

    sessions: dict[str, int] = field(default_factory=dict)
    unmasked: dict[str, bytes] = field(default_factory=dict)
    over: int = -1

    def open(self, spec: SessionSpec) -> None:
        """Note a session; SecAggRefusal unless it is newer than any of its run and phase."""
        if spec.run <= self.over:
            raise SecAggRefusal(f"run {spec.run} is over: this silo has taken part in newer ones")
        key = f"{spec.run}/{spec.phase}"
        newest = self.sessions.get(key, -1)
        if spec.serial <= newest:
            raise SecAggRefusal(
                f"session {spec.serial} of phase {spec.phase} is not newer than {newest}: "
                "sessions never repeat"
            )
        self.sessions[key] = spec.serial
        self._forget()

    def unmask(self, model: str, who: bytes, phase: str) -> None:
        """Note for whom a model is unmasked; SecAggRefusal where it was for others before."""
        if self.unmasked.setdefault(model, who) != who:
            raise SecAggRefusal(
                f"the sum of this model in phase {phase} was unmasked before, "
                "for other survivors: sum the next model"
            )
        self._forget()

    def join(self, other: Ledger) -> None:
        """Note what another ledger of this silo knows as well."""
        self.over = max(self.over, other.over)
        for key, newest in other.sessions.items():
            self.sessions[key] = max(newest, self.sessions.get(key, -1))
        self.unmasked = {**other.unmasked, **self.unmasked}
        self._forget()

    def _forget(self) -> None:
        runs = sorted({_run_of(key) for key in self.sessions})
        if len(runs) > MAX_RUNS:
            self.over = max(self.over, runs[-MAX_RUNS - 1])
        self.sessions = {k: n for k, n in self.sessions.items() if _run_of(k) > self.over}
        self.unmasked = dict(list(self.unmasked.items())[-MAX_MODELS:])

    def to_bytes(self) -> bytes:
        """Return all of it."""
        models = [{"model": model, "who": who} for model, who in self.unmasked.items()]
        return pack({"sessions": self.sessions, "unmasked": models, "over": self.over})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the ledger of ``to_bytes``; SecAggRefusal if it is malformed."""
        fields = unpack(data, "ledger", sessions=is_map(is_int), unmasked=_is_models, over=is_int)
        unmasked = {one["model"]: one["who"] for one in fields["unmasked"]}
        return cls(fields["sessions"], unmasked, fields["over"])


def _is_models(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == {"model", "who"}
        and isinstance(one["model"], str)
        and isinstance(one["who"], bytes)
        for one in value
    )


def _run_of(key: str) -> int:
    return int(key.partition("/")[0])
