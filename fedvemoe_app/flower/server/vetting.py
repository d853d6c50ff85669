"""What comes of an exchange before it is used; a sum that is void is asked for again.

A round happens whole or not at all. A sum with too few silos is void: nothing of it is applied
here, silos drop what they did for it (``memory.begin``), and the same sum is asked for again, so
that a run with void sums ends as one without. A retry is a new session with new keys; silos still
unmask one model for one list of silos alone, and where that rules a retry out, the void sum stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fedvemoe_app.config_groups.rounds import RoundSettings
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.flower.sums.one_reply import Tally, sums_of

MOST_VOID = 3
"""Void sums in a row that could not be asked for again, after which a run is given up."""


def pause(attempt: int) -> float:
    """Return the seconds to wait before an attempt: SuperNodes need about a minute to be back."""
    return 30.0 * max(0, attempt - 2)


class Vetting:
    """Vets the one reply of every exchange of a run.

    Parameters
    ----------
    recorder
        Writes how exchanges went to the journal.
    rounds
        The settings: silos that must answer, and how often a void sum is asked for again.
    noised
        Whether silos add noise: then each sum leaves them once, and is asked for once.

    """

    def __init__(self, recorder: Recorder, rounds: RoundSettings, *, noised: bool = False) -> None:
        self._recorder = recorder
        self._least = rounds.min_silos
        self._timeout = float(rounds.phase_timeout)
        self._retries = 0 if noised else rounds.void_retries
        self._void = 0

    def asked(
        self,
        grid: Grid,
        phase: str,
        round_: int,
        messages: Callable[[], Iterable[Message]],
        regroup: Callable[[], None],
    ) -> list[Message]:
        """Return the one reply with a sum in it; none where the sum is void and must stay so.

        ``messages`` makes what is sent, anew for each attempt; ``regroup`` looks who is there
        before another one. RunError, with every silo's reason, where all attempts were void.
        """
        for attempt in range(1, self._retries + 2):
            if attempt > 1:
                time.sleep(pause(attempt))
                regroup()
            asked = list(messages())
            self._recorder.phase(phase, round_, len(asked))
            (reply,) = grid.send_and_receive(asked, timeout=self._timeout)
            tally = self._vetted(Tally.of(reply))
            self._recorder.exchanged(phase, round_, tally, attempt)
            self._void = self._void + 1 if tally.final else 0
            if not tally.void:
                return [reply]
            if tally.final and self._void <= MOST_VOID:
                return []
            if tally.final:
                break
        raise self._given_up(f"round {round_}, phase {phase}", tally, attempt)

    def state(self) -> State:
        """Return how many sums in a row are void."""
        return State({}, {"void": self._void})

    def restore(self, state: State) -> None:
        """Go on from a count of void sums."""
        self._void = int(state.facts["void"])

    def _vetted(self, tally: Tally) -> Tally:
        """Return the tally, void where fewer silos answered than must."""
        if tally.void or tally.answered >= self._least:
            return tally
        few = f"{tally.answered} silos answered, min-silos = {self._least}"
        return replace(tally, void=few)

    def _given_up(self, where: str, tally: Tally, attempts: int) -> RunError:
        reasons = "; ".join(f"{silo}: {why}" for silo, why in tally.failures.items())
        tried = f"asked for {attempts} times (void-retries = {self._retries})"
        if tally.final:
            tried = f"the {self._void}th sum in a row that is void and cannot be asked for again"
        return RunError(f"{where}: {tally.void}; {tried}; nothing of it was applied. {reasons}")

    def patiently(self, look: Callable[[], None]) -> None:
        """Look who is there, and again after a while where ``look`` finds too few: RunError."""
        for attempt in range(2, self._retries + 2):
            try:
                return look()
            except RunError:
                time.sleep(pause(attempt + 1))
        return look()


def accepted(replies: Iterable[Message]) -> dict[str, Tensor] | None:
    """Return the sums in what ``asked`` returned; None where there are none."""
    return next(map(sums_of, replies), None)
