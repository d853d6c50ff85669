"""What both ways of a secure round have in common: the case, and a stopwatch of CPU seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Case:
    """A round of ``silos`` with ``values`` numbers each, of which ``dropouts`` vanish."""

    values: int
    silos: int
    dropouts: int


@dataclass(slots=True)
class Stopwatch:
    """CPU seconds of this process, all threads: of one client, and of the server."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def client(self, part: str, clients: int = 1) -> Iterator[None]:
        """Time work of ``clients`` clients; what counts is the mean of one."""
        yield from self._timed(f"client {part}", 1 / clients)

    @contextmanager
    def server(self, part: str, times: float = 1.0) -> Iterator[None]:
        """Time work that the server does ``times`` times."""
        yield from self._timed(f"server {part}", times)

    def _timed(self, name: str, factor: float) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] += (time.process_time() - start) * factor

    def total(self, side: str, part: str = "") -> float:
        """Return the seconds of a side, ``client`` or ``server``, or of one part of it."""
        return sum(s for name, s in self.seconds.items() if name.startswith(f"{side} {part}"))
