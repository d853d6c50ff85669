"""Progress of a run, written by the server as it goes and folded into one state by a reader.

The server process appends one JSON line per happening to ``progress.jsonl``; another process
(see ``report.live``) reads on from where it stopped and shows the state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fedvemoe_app.jsontext import parse
from fedvemoe_app.report import jsonl

FILE = "progress.jsonl"
Outcome = Literal["running", "finished", "failed"]


class Progress:
    """Writes the happenings of a run into its folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def phase_started(self, phase: str, number: int, rounds: int, expected: int) -> None:
        """Note that ``phase`` of round ``number`` of ``rounds`` asks ``expected`` silos."""
        self._append("phase", phase=phase, round=number, rounds=rounds, expected=expected)

    def reply(self, silo: str, done: int, of: int) -> None:
        """Note that a silo has replied, the ``done``-th of ``of``."""
        self._append("reply", silo=silo, done=done, of=of)

    def phase_finished(self, seconds: float) -> None:
        """Note that the current phase is over and what it took."""
        self._append("phase_finished", seconds=seconds)

    def score(self, number: int, ppl: float | None, ppl_worst: float | None = None) -> None:
        """Note the perplexity of round ``number``, of all silos pooled and of the worst."""
        self._append("score", round=number, ppl=ppl, ppl_worst=ppl_worst)

    def message(self, text: str) -> None:
        """Note something worth a line: a birth, a dropout, a void round."""
        self._append("message", text=text)

    def finished(self) -> None:
        """Note that the run has ended well."""
        self._append("finished")

    def failed(self, reason: str) -> None:
        """Note that the run has ended with an error."""
        self._append("failed", reason=reason)

    def _append(self, event: str, **fields: Any) -> None:
        row = {"event": event, "time": round(time.time(), 3), **fields}
        jsonl.append(self.path, [row], sync=False)


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands. ``spent`` holds the seconds of finished phases by round."""

    outcome: Outcome = "running"
    reason: str = ""
    round: int = 0
    rounds: int = 0
    phase: str = ""
    done: int = 0  # silos that have replied in this phase
    expected: int = 0
    silo: str = ""  # the last one that has replied
    ppl: float | None = None
    ppl_worst: float | None = None
    spent: Mapping[int, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from complete training rounds; None before the first one is complete."""
        complete = [seconds for number, seconds in self.spent.items() if 0 < number < self.round]
        if not complete:
            return None
        each = sum(complete) / len(complete)
        current = max(0.0, each - self.spent.get(self.round, 0.0))
        return current + each * max(0, self.rounds - self.round)


def advance(state: State, event: Mapping[str, Any]) -> State:
    """Return the state after one line of ``progress.jsonl``; other events change nothing."""
    match event:
        case {"event": "phase", "phase": phase, "round": number, "rounds": rounds, **rest}:
            expected = rest.get("expected", 0)
            place = {"phase": phase, "round": number, "rounds": rounds}
            return replace(state, **place, done=0, expected=expected, silo="")
        case {"event": "reply", "done": done, "of": of, **rest}:
            return replace(state, done=done, expected=of, silo=str(rest.get("silo", "")))
        case {"event": "phase_finished", "seconds": seconds}:
            total = state.spent.get(state.round, 0.0) + (seconds or 0.0)
            return replace(state, spent={**state.spent, state.round: total})
        case {"event": "score", "ppl": ppl, **rest}:
            return replace(state, ppl=ppl, ppl_worst=rest.get("ppl_worst"))
        case {"event": "finished"}:
            return replace(state, outcome="finished")
        case {"event": "failed", **rest}:
            return replace(state, outcome="failed", reason=str(rest.get("reason", "")))
    return state


class Tail:
    """Reads a growing ``progress.jsonl``, which may not exist yet; a partial line waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """Return the lines completed since the last call; what is no JSON object is left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        events = (_event(line) for line in complete.splitlines())
        return [event for event in events if event is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = parse(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
