"""How long a run will take: said before its rounds begin, and again once one of them is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedvemoe_app.report.wording import duration

WORTH_SAYING = 300.0
"""Seconds from which on an estimate is shown to who watches; below, it is in the log alone."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that the rounds to come will take, and a line that says so and why."""

    seconds: float
    words: str


@dataclass(slots=True)
class Forecast:
    """Judges ``rounds`` rounds, of which each ``eval_every``-th and the last score test examples.

    After row 0 nothing is known of training, so a round counts as two assessments like the first
    one: in the demo training takes as long as its assessment, with many local steps it takes
    longer. After round 1 what that round took is known.
    """

    rounds: int
    eval_every: int
    scored: float = 0.0  # seconds of an assessment that scores test examples, as in row 0

    def after(self, round_: int, seconds: Mapping[str, float]) -> Estimate | None:
        """Return the estimate after row 0 and after round 1, from a round's seconds by phase.

        None after other rounds, and where no round is left or nothing was measured.
        """
        assess = seconds.get("assess", 0.0)
        if round_ == 0 and assess:
            self.scored = assess
            return self._of(self.rounds, 2 * assess, "roughly", "the first assessment")
        if round_ == 1 and self.rounds > 1 and seconds:
            scores_left = (
                0 if self._scores(1) else sum(map(self._scores, range(2, self.rounds + 1)))
            )
            extra = scores_left * max(0.0, self.scored - assess)
            return self._of(self.rounds - 1, sum(seconds.values()), "about", "round 1", extra)
        return None

    def _scores(self, round_: int) -> bool:
        return round_ % self.eval_every == 0 or round_ == self.rounds

    def _of(self, count: int, each: float, how: str, judge: str, extra: float = 0.0) -> Estimate:
        total = count * each + extra
        rounds = f"{count} round" if count == 1 else f"{count} rounds"
        return Estimate(total, f"{how} {duration(total)} for {rounds}, judging by {judge}")
