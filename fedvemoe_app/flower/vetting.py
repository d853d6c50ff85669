"""What comes of an exchange before it is used: noted in the journal, counted, and found enough."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message
from torch import Tensor

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.consortium import require
from fedvemoe_app.flower.one_reply import Tally, sums_of
from fedvemoe_app.flower.recorder import Recorder
from fedvemoe_app.flower.shelf import State

MOST_VOID = 3
"""Void sums in a row after which a run is given up."""


class Vetting:
    """Vets the one reply of every exchange of a run.

    Parameters
    ----------
    recorder
        Writes how exchanges went to the journal.
    least
        Silos that must answer.

    """

    def __init__(self, recorder: Recorder, least: int) -> None:
        self._recorder = recorder
        self._least = least
        self._void = 0

    def accepted(
        self, phase: str, round_: int, replies: Iterable[Message]
    ) -> dict[str, Tensor] | None:
        """Return an exchange's sums; None where the sum is void.

        RunError for too few silos, and for too many void sums in a row.
        """
        (reply,) = replies
        tally = Tally.of(reply)
        self._recorder.exchanged(phase, round_, tally)
        self._void = self._void + 1 if tally.void else 0
        if self._void > MOST_VOID:
            raise RunError(f"{self._void} sums in a row are void; the last: {tally.void}")
        if tally.void:
            return None
        require(tally, self._least, f"round {round_}, phase {phase}")
        return sums_of(reply)

    def state(self) -> State:
        """Return how many sums in a row are void."""
        return State({}, {"void": self._void})

    def restore(self, state: State) -> None:
        """Go on from a count of void sums."""
        self._void = int(state.facts["void"])
