"""The account of one sum: what it costs and who fell out of it, over its exchanges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import get_facts, size_in_bytes
from fedvemoe_app.flower.sums.exchange import Answer
from fedvemoe_app.flower.sums.one_reply import Tally, content_of


@dataclass(slots=True)
class Account:
    """Gathered while a sum is under way; ``tally`` closes it."""

    started: float = field(default_factory=time.monotonic)
    failures: dict[str, str] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0

    def take(self, name: str, answer: Answer, take: Callable[[RecordDict], None]) -> None:
        """Let ``take`` have what a silo replied; note its report and cost, or why it failed."""
        try:
            content = content_of(answer)
            report = get_facts(content, "report") if "report" in content else None
            take(content)
        except RunError as error:
            self.failures[name] = str(error)
            return
        self.bytes_up += size_in_bytes(content)
        if report is not None:
            self.reports[name] = report

    def sent(self, messages: Iterable[Message]) -> None:
        """Note what messages cost."""
        self.bytes_down += sum(size_in_bytes(message.content) for message in messages)

    def tally(self, answered: int, void: str = "", *, final: bool = False) -> Tally:
        """Return the tally; nobody is in a sum that is void. Silos by name."""
        return Tally(
            answered=answered,
            failures=dict(sorted(self.failures.items())),
            reports=dict(sorted(self.reports.items())),
            bytes_down=self.bytes_down,
            bytes_up=self.bytes_up,
            seconds=time.monotonic() - self.started,
            void=void,
            final=final,
        )
