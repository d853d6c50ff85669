"""Two ways of doing the same work, timed in turns so that a noisy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock in seconds.

    With one thread on a CPU it counts the processor time of this process, which other programs
    disturb least; otherwise it is the wall clock, read when the device has finished.
    """

    device: torch.device

    @property
    def kind(self) -> str:
        """``cpu`` or ``wall``."""
        return "cpu" if self.device.type == "cpu" and torch.get_num_threads() == 1 else "wall"

    def now(self) -> float:
        """Return the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.kind == "cpu" else time.perf_counter()

    def seconds(self, work: Work) -> float:
        """Return how long ``work`` takes."""
        start = self.now()
        work()
        return self.now() - start


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of each repeat, ours and the other's; the i-th of both ran one after the other."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times longer the other took, pair by pair."""
        return tuple(other / ours for ours, other in zip(self.ours, self.other, strict=True))

    @property
    def speed_up(self) -> float:
        """Median of the ratios."""
        return median(self.ratios)


def in_turns(works: Sequence[Work], repeats: int, clock: Clock) -> list[tuple[float, ...]]:
    """Run all works, then all again, ...; whoever calls has warmed them up.

    Returns the seconds of each work, one for each repeat.
    """
    seconds = [[clock.seconds(work) for work in works] for _ in range(repeats)]
    return [tuple(column) for column in zip(*seconds, strict=True)]
