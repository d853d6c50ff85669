"""Runs that are cut at any message, and what must be equal where one goes on after that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Tamper
from fedvemoe_app.report.journal import Run
from tests.federation import Settings, federate
from tests.flower.open_world import is_in, plain

SHORT: Settings = {
    "eval-examples": 2,
    "generate-examples": 0,
    "probe-tokens": 30,
    "local-steps": 2,
    "target-modules": "q_proj",
    "num-server-rounds": 3,
    "warmup-rounds": 2,
}


class Cut(BaseException):
    """The server's process is gone: nothing in it gets to run."""


def cut_in(kind: str, round_: int, node: int = 2) -> Tamper:
    """Cut a run where a node's reply of this kind comes in, in a round."""

    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == node and is_in(message, kind, round_):
            raise Cut
        return reply

    return tamper


def cut_at(number: int) -> Tamper:
    """Cut a run at its reply of this number, from 1."""
    left = number

    def tamper(message: Message, reply: Message) -> Message:
        nonlocal left
        left -= 1
        if left == 0:
            raise Cut
        return reply

    return tamper


def interrupted(settings: Settings, cut: Tamper, **more: Any) -> Path:
    """Begin a run and cut it; return its folder."""
    with pytest.raises(Cut):
        federate(settings, tamper=cut, **more)
    return Path(str(settings["log-dir"])) / str(settings["run-name"])


def resumed(settings: Settings, folder: Path, **more: Any) -> Run:
    """Let a run go on in a new process: silos remember nothing but what they stored."""
    return federate({**settings, "resume": str(folder)}, **more)


def experts(run: Run) -> dict[str, bytes]:
    """Return the files of the adapters."""
    files = sorted((run.folder / "experts").rglob("*.safetensors"))
    return {str(file.relative_to(run.folder)): file.read_bytes() for file in files}


def same_run(one: Run, other: Run) -> None:
    """Check that two runs are one, bit for bit, but for seconds and bytes."""
    assert plain(one) == plain(other)
    assert (one.tasks, one.clients, one.events) == (other.tasks, other.clients, other.events)
    assert experts(one) == experts(other)
    assert one.summary is not None
    assert one.config == {**other.config, "run-name": one.config["run-name"]}


def counting() -> tuple[Tamper, Callable[[], int]]:
    """Return a tamper that counts replies, and the count."""
    seen: list[str] = []

    def tamper(message: Message, reply: Message) -> Message:
        seen.append(message.metadata.message_type)
        return reply

    return tamper, lambda: len(seen)


Prepare = Callable[[InProcessGrid], object]
