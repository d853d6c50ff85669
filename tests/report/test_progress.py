from __future__ import annotations

from pathlib import Path

import pytest

from fedvemoe_app.report.progress import Progress, State, Tail, advance


def fold(folder: Path) -> State:
    state = State()
    for event in Tail(folder / "progress.jsonl").read():
        state = advance(state, event)
    return state


def play(progress: Progress, rounds: int, of: int, seconds: float = 10.0) -> None:
    for number in range(rounds + 1):
        progress.phase_started("train", number, of, expected=2)
        progress.reply("silo-00", 1, 2)
        progress.phase_finished(seconds)
        progress.score(number, ppl=9.0 - number, ppl_worst=10.0)


def test_state_follows_the_run(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    play(progress, rounds=2, of=5)
    progress.phase_started("probe", 3, 5, expected=4)
    progress.reply("silo-03", 1, 4)
    state = fold(tmp_path)
    assert (state.phase, state.round, state.rounds) == ("probe", 3, 5)
    assert (state.done, state.expected, state.ppl) == (1, 4, 7.0)
    assert state.outcome == "running"


def test_time_left_is_estimated_from_complete_training_rounds(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.phase_started("evaluate", 0, 4, 2)
    progress.phase_finished(1000.0)  # row 0 is no training round
    progress.phase_started("train", 1, 4, 2)
    assert fold(tmp_path).seconds_left is None
    progress.phase_finished(8.0)
    progress.phase_started("probe", 2, 4, 2)
    progress.phase_finished(3.0)
    assert fold(tmp_path).seconds_left == pytest.approx(5.0 + 2 * 8.0)


def test_a_round_that_takes_longer_never_has_negative_time(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    for number, seconds in ((1, 1.0), (2, 50.0)):
        progress.phase_started("train", number, 2, 2)
        progress.phase_finished(seconds)
    assert fold(tmp_path).seconds_left == 0.0


def test_failure_keeps_its_reason(tmp_path: Path) -> None:
    Progress(tmp_path).failed("2 of 5 silos left")
    assert (fold(tmp_path).outcome, fold(tmp_path).reason) == ("failed", "2 of 5 silos left")


def test_tail_waits_for_a_file_and_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"event": "finished"}\n{"event": "mess')
    assert [event["event"] for event in tail.read()] == ["finished"]
    assert tail.read() == []
    with path.open("a") as file:
        file.write('age", "text": "hé"}\n')
    assert tail.read() == [{"event": "message", "text": "hé"}]


def test_garbage_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'nonsense\n[1]\n\xff\xfe\n{"event": "finished"}\n')
    assert Tail(path).read() == [{"event": "finished"}]


@pytest.mark.parametrize("event", [{}, {"event": "phase"}, {"event": "new", "x": 1}])
def test_unknown_events_change_nothing(event: dict[str, object]) -> None:
    assert advance(State(), event) == State()
