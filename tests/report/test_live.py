from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from fedvemoe_app.report.live import follow, line, picture
from fedvemoe_app.report.progress import Progress, State
from fedvemoe_app.report.wording import duration


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=60)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run(folder: Path) -> None:
    progress = Progress(folder)
    for number in range(3):
        progress.phase_started("train", number, 2, expected=2)
        progress.reply("silo-00", 1, 2)
        progress.phase_finished(60.0)
        progress.score(number, ppl=4.0 - number, ppl_worst=6.0)
    progress.message("birth in slot [3]")
    progress.finished()


def test_plain_lines_one_per_round(tmp_path: Path) -> None:
    run(tmp_path)
    console = plain()
    assert follow(tmp_path, console, interval=0).outcome == "finished"
    assert text(console).splitlines() == [
        "round 0/2  ppl 4.000  worst silo 6.000",
        "round 1/2  ppl 3.000  worst silo 6.000",
        "birth in slot [3]",
        "round 2/2  ppl 2.000  worst silo 6.000",
    ]


def test_a_terminal_gets_the_live_row(tmp_path: Path) -> None:
    run(tmp_path)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    assert follow(tmp_path, console, interval=0).ppl == 2.0
    assert "1/2 silos" in text(console)
    assert "birth in slot [3]" in text(console)


def test_follows_a_file_that_another_writes(tmp_path: Path) -> None:
    writer = threading.Thread(target=run, args=(tmp_path,))
    console = plain()
    writer.start()
    state = follow(tmp_path, console, interval=0.001)
    writer.join()
    assert (state.outcome, state.round) == ("finished", 2)


def test_a_writer_that_died_is_not_waited_for(tmp_path: Path) -> None:
    Progress(tmp_path).phase_started("train", 1, 2, expected=2)
    state = follow(tmp_path, plain(), running=lambda: False)
    assert (state.outcome, state.round) == ("running", 1)


def test_failure_ends_the_view(tmp_path: Path) -> None:
    Progress(tmp_path).failed("no silo left")
    assert follow(tmp_path, plain()).reason == "no silo left"


def test_time_left_is_shown() -> None:
    state = State(round=2, rounds=4, spent={1: 70.0})
    assert line(state) == "round 2/4  about 3 min 30 s left"
    console = plain()
    console.print(picture(State()))
    assert "starting" in text(console)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (42, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
