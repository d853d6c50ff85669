"""A disk that fills up or refuses during a run: it ends in words, and no row before is lost.

Removed by hand, each turned a test here red: cutting off half a row; the file's name in an error,
of a row and of anything else; going by the first error where the last word cannot be written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flwr.app import Message

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import get_facts
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.report.journal import read_run
from tests.federation import SILOS, Settings, federate
from tests.fulldisk import full_beyond

QUICK: Settings = {"num-server-rounds": 2, "generate-examples": 0, "eval-examples": 2}
NO_START: Settings = {**QUICK, "start": "none", "target-modules": "q_proj", "local-steps": 1}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def when_training(round_: int, act: Callable[[], object]) -> Callable[[Message, Message], Message]:
    """Act once when the first silo has trained in a round."""
    acted: list[bool] = []

    def tamper(message: Message, reply: Message) -> Message:
        training = message.metadata.message_type == "train"
        if training and not acted and get_facts(message.content, "order")["round"] == round_:
            acted.append(True)
            act()
        return reply

    return tamper


def test_a_disk_that_fills_up_ends_the_run_and_keeps_every_row(
    settings: Callable[..., Settings], tmp_path: Path, stack: ExitStack
) -> None:
    folder = tmp_path / "full"
    progress = folder / "progress.jsonl"
    before: list[bytes] = []

    def fill() -> None:
        before.append(progress.read_bytes())
        stack.enter_context(full_beyond(len(before[0]) + 20))  # of the next row twenty bytes fit

    chosen = {**settings(run_name="full"), **NO_START}
    largest = r"full/progress\.jsonl cannot be written: File too large; free"
    with pytest.raises(RunError, match=largest) as failed:
        federate(chosen, tamper=when_training(2, fill))
    cause = failed.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.__context__ is None  # the first error: the last word fails, too
    stack.close()
    assert [progress.read_bytes()] == before
    assert [row["round"] for row in read_run(folder).rounds] == [0, 1]


def test_an_error_of_the_disk_that_nobody_explained_says_what_to_do(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(ended: object) -> list[Path]:
        raise OSError(errno.ENOSPC, "No space left on device", "worst.png")

    chosen = {**settings(run_name="drawn", num_server_rounds=1), **NO_START, "num-server-rounds": 1}
    monkeypatch.setattr("fedvemoe_app.flower.server.run.draw_all", draw)
    with pytest.raises(RunError, match=r"worst\.png cannot be written: No space .* in .*drawn$"):
        run(InProcessGrid(client_app, chosen, SILOS), RunConfig.from_flat(chosen))
    assert [row["round"] for row in read_run(tmp_path / "drawn").rounds] == [0, 1]


def test_a_file_on_a_full_device_is_named(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    def no_room() -> None:
        (tmp_path / "device" / "events.jsonl").symlink_to("/dev/full")

    def lose(message: Message, reply: Message) -> Message | None:
        passed = first(message, reply)
        return None if (message.metadata.dst_node_id, is_training(message)) == (3, True) else passed

    def is_training(message: Message) -> bool:
        return message.metadata.message_type == "train"

    first = when_training(1, no_room)
    chosen = {**settings(run_name="device"), **NO_START}
    with pytest.raises(RunError, match=r"device/events\.jsonl cannot be written: No space left"):
        federate(chosen, tamper=lose)
    (tmp_path / "device" / "events.jsonl").unlink()  # which would be read without end
    assert [row["round"] for row in read_run(tmp_path / "device").rounds] == [0]


def test_an_adapter_that_does_not_fit_is_named(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen = {**settings(run_name="adapters", num_server_rounds=1), **NO_START}
    chosen["num-server-rounds"] = 1

    def no_folder() -> None:
        (tmp_path / "adapters" / "experts").write_text("in the way")

    with pytest.raises(RunError, match=r"experts/slot_00 cannot be written"):
        federate(chosen, tamper=when_training(1, no_folder))
    assert [row["round"] for row in read_run(tmp_path / "adapters").rounds] == [0, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_log_dir_that_cannot_be_written_is_named_before_any_silo_is_asked(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    with pytest.raises(RunError, match=r"closed/.* cannot be made \(Permission denied\)"):
        federate({**settings(), "log-dir": str(place)})


def test_a_log_dir_that_is_no_folder_is_named_before_any_silo_is_asked(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_text("")
    asked: list[Message] = []

    def tamper(message: Message, reply: Message) -> Message:
        asked.append(message)
        return reply

    with pytest.raises(RunError, match=r"cannot be made \(Not a directory\); set log-dir"):
        federate({**settings(), "log-dir": str(place)}, tamper=tamper)
    assert asked == []
