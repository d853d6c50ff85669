"""The account of one secure sum: what it costs and who fell out of it, over its exchanges."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fedvemoe_app.flower.one_reply import Tally


@dataclass(slots=True)
class Account:
    """Gathered while a sum is under way; ``tally`` closes it."""

    started: float = field(default_factory=time.monotonic)
    failures: dict[str, str] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0

    def tally(self, answered: int, void: str = "") -> Tally:
        """Return the tally; nobody is in a sum that is void."""
        return Tally(
            answered=answered,
            failures=self.failures,
            reports=self.reports,
            bytes_down=self.bytes_down,
            bytes_up=self.bytes_up,
            seconds=time.monotonic() - self.started,
            void=void,
        )
