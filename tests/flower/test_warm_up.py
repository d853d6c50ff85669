"""A simulation's processes get ready while the server does; the door itself loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from unittest.mock import patch

import pytest
from flwr.app import Context, Message, RecordDict

from fedvemoe_app.client_app import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.server_app import main

SETTINGS = RunConfig().to_flat()


class Watched(InProcessGrid):
    """A grid that keeps what was sent."""

    def __init__(self) -> None:
        super().__init__(app, SETTINGS, 2)
        self.sent: list[Message] = []
        self.replied: list[bool] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.replied += [not reply.has_error() for reply in replies]
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.sent = list(messages)
        return super().push_messages(self.sent)


def sent_at_the_start(**changes: str) -> tuple[Watched, list[Message]]:
    """Start a run whose work is cut out; return the grid and what was sent before it."""
    grid, seen = Watched(), list[Message]()
    context = Context(1, 0, {}, RecordDict(), {**SETTINGS, **changes})
    with patch(
        "fedvemoe_app.flower.server.run.run",
        lambda grid, config: seen.extend(grid.sent * all(grid.replied)),
    ):
        main(grid, context)
    return grid, seen


def test_every_silo_of_a_simulation_is_told_to_get_ready_and_does() -> None:
    grid, sent = sent_at_the_start()
    assert [message.metadata.dst_node_id for message in sent] == [1, 2]
    assert grid.replied == [True, True]
    assert all(len(context.state) == 0 for context in grid.contexts.values())


def test_a_deployment_pays_for_no_such_message() -> None:
    assert sent_at_the_start(roster="/etc/fedvemoe/roster.json")[1] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("client_app", ("torch", "transformers", "peft")),
        ("server_app", ("torch", "transformers", "peft")),
        ("evaluation.text", ("nltk", "sklearn", "pandas")),
        ("report.page", ("sklearn", "scipy", "torch")),
        ("worker.door", ("torch", "flwr")),
    ],
)
def test_what_is_dear_is_imported_where_it_is_used(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, fedvemoe_app.{module}; print(*({heavy!r} & sys.modules.keys()))"
    code = code.replace(f"{heavy!r}", f"set({heavy!r})")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""
