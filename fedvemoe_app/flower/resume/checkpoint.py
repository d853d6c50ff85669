"""The server's whole state after each round: composed of what has a state, stored at once.

Each part says what it needs to go on (``Stateful``); here they become one file, and a file becomes
their states again. What is damaged is passed over, with a warning, for the one before it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.shelf import DamagedError, Shelf, State

LOG = logging.getLogger("flwr")
FOLDER = "checkpoint"


class Stateful(Protocol):
    """A part of a run whose state outlives its process."""

    def state(self) -> State:
        """Return what it needs to go on."""

    def restore(self, state: State) -> None:
        """Go on from ``state``."""


Parts = Mapping[str, Stateful]


@dataclass(frozen=True, slots=True)
class Saved:
    """The states of all parts after a round."""

    round: int
    parts: Mapping[str, State]

    def restore(self, parts: Parts) -> None:
        """Let every part go on from its state; RunError where one has none here."""
        for name, part in parts.items():
            if name not in self.parts:
                raise RunError(f"the checkpoint of round {self.round} has no state of {name}")
            part.restore(self.parts[name])


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of a run in ``checkpoint/`` of its folder."""

    shelf: Shelf

    @classmethod
    def of(cls, run: Path, keep: int = 1) -> Checkpoints:
        """Return those of the run in a folder, of which the newest ``keep`` stay."""
        return cls(Shelf(run / FOLDER, keep))

    def rounds(self) -> list[int]:
        """Return the rounds that a run can go on from, newest first."""
        return self.shelf.rounds()

    def save(self, round_: int, parts: Parts) -> None:
        """Store the states of all parts after a round; RunError where that fails."""
        states = {name: part.state() for name, part in parts.items()}
        arrays = {
            f"{name}:{key}": t for name, one in states.items() for key, t in one.arrays.items()
        }
        self.shelf.put(round_, State(arrays, {name: one.facts for name, one in states.items()}))

    def latest(self, at_most: int | None = None) -> Saved:
        """Return the newest checkpoint that can be used; RunError where there is none."""
        rounds = [one for one in self.rounds() if at_most is None or one <= at_most]
        reasons: list[str] = []
        for round_ in rounds:
            try:
                return _split(round_, self.shelf.get(round_))
            except DamagedError as error:
                LOG.warning("checkpoint of round %d is passed over: %s", round_, error)
                reasons.append(str(error))
        why = "; ".join(reasons) or "no round is complete"
        raise RunError(f"{self.shelf.folder} holds no checkpoint that can be used: {why}")

    def drop_after(self, round_: int) -> None:
        """Remove the checkpoints of later rounds, which will be made again."""
        self.shelf.drop_after(round_)


def _split(round_: int, whole: State) -> Saved:
    """Return the parts' states in one file."""
    arrays: dict[str, dict[str, object]] = {name: {} for name in whole.facts}
    for name, tensor in whole.arrays.items():
        part, _, key = name.partition(":")
        arrays[part][key] = tensor
    return Saved(round_, {name: State(arrays[name], f) for name, f in whole.facts.items()})  # type: ignore[arg-type]
