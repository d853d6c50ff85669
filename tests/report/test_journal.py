from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import jsonl
from fedvemoe_app.report.journal import Journal, read_run, summarize
from fedvemoe_app.report.reopened import position_of, reopen
from fedvemoe_app.report.rows import EventRow, RoundRow, TaskRow
from tests.fulldisk import full_beyond
from tests.report.synthetic import make_run

EVENT = EventRow(round=2, event="birth", slots=[3], why="residual", numbers={"gain": 0.5})
TASK = TaskRow(
    round=2,
    task="task1",
    category="code",
    ppl=2.0,
    rouge_l=None,
    exact_match=None,
    tokens=10,
    examples=0,
)


def round_row(number: int, ppl: float | None = None) -> RoundRow:
    return RoundRow(
        round=number,
        strategy="fedvemoe",
        k_active=2,
        mass=[1.0, 2.0],
        prior=[0.3, 0.7],
        loss_train=1.0,
        ppl=ppl,
        ppl_worst=ppl,
        rouge_l=None,
        exact_match=None,
        negative_transfer_share=None,
        bytes_up=1,
        bytes_down=2,
        seconds={"train": 2.0, "probe": 0.5},
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "first", {"seed": 1}, {"numpy": "2"})
    journal.round(round_row(0, 3.0))
    journal.tasks([TASK, TASK])
    journal.tasks([])
    journal.event(EVENT)
    run = read_run(tmp_path / "first")
    assert (run.config, run.manifest) == ({"seed": 1}, {"numpy": "2"})
    assert list(run.rounds) == [round_row(0, 3.0)]
    assert list(run.tasks) == [TASK, TASK]
    assert list(run.events) == [EVENT]
    assert (list(run.clients), run.summary) == ([], None)


def test_a_run_without_a_name_gets_one_of_its_own(tmp_path: Path) -> None:
    one = Journal.create(tmp_path, None, {}, {})
    two = Journal.create(tmp_path, "", {}, {})
    assert one.folder != two.folder
    assert one.folder.parent == two.folder.parent == tmp_path


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    Journal.create(tmp_path, "run", {}, {})
    with pytest.raises(RunError, match=r"run exists already; .*run-name"):
        Journal.create(tmp_path, "run", {}, {})


def test_an_unwritable_log_dir_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/runs/run cannot be made .*log-dir"):
        Journal.create(tmp_path / "file" / "runs", "run", {}, {})


def test_arrays_tensors_and_numbers_that_are_none(tmp_path: Path) -> None:
    row = round_row(0, math.nan)
    row["mass"] = np.array([1.0, np.inf])  # type: ignore[typeddict-item]
    row["prior"] = torch.tensor([0.25, 0.75], dtype=torch.bfloat16)  # type: ignore[typeddict-item]
    row["bytes_up"] = np.int64(7)  # type: ignore[typeddict-item]
    row["loss_train"] = torch.tensor(2.0).item()
    journal = Journal.create(tmp_path, "run", {"path": Path("a/b")}, {})
    journal.round(row)
    read = read_run(journal.folder).rounds[0]
    assert (read["ppl"], read["mass"], read["prior"]) == (None, [1.0, None], [0.25, 0.75])
    assert (read["bytes_up"], read["loss_train"]) == (7, 2.0)
    assert "NaN" not in (journal.folder / "rounds.jsonl").read_text()


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object cannot be written"):
        jsonl.plain({"a": object()})


def test_each_append_is_one_write_that_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    jsonl.append(tmp_path / "rows.jsonl", [{"a": "x" * 100_000}, {"b": 2}])
    assert len(synced) == 1
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_whole_files_are_replaced_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    jsonl.write(path, {"old": 1})

    def crash(_: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(RunError, match="power cut"):
        jsonl.write(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=2)
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "stra')
    assert [row["round"] for row in read_run(run.folder).rounds] == [0, 1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write("broken\n{}\n")
    with pytest.raises(RunError, match=r"rounds\.jsonl, line 3"):
        read_run(run.folder)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config\.json"):
        read_run(tmp_path)


def test_reopening_drops_what_came_after_the_position(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=3, rounds=1)
    position, before = position_of(run.folder), read_run(run.folder)
    journal = Journal(run.folder)
    journal.round(round_row(2, 2.0))
    journal.event(EVENT)
    journal.summary()
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "stra')
    (run.folder / "progress.jsonl").write_text('{"event": "failed"}\n')
    journal = reopen(run.folder, position, {"seed": 2})
    again = read_run(run.folder)
    assert (again.rounds, again.clients) == (before.rounds, before.clients)
    assert (again.tasks, again.events) == (before.tasks, before.events)
    assert (again.summary, again.config) == (None, {"seed": 2})
    assert not (run.folder / "progress.jsonl").exists()
    journal.round(round_row(2, 2.0))
    assert [row["round"] for row in read_run(run.folder).rounds] == [0, 1, 2]


def test_rows_that_are_gone_cannot_be_continued(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=3, rounds=1)
    position = position_of(run.folder)
    (run.folder / "clients.jsonl").unlink()
    with pytest.raises(RunError, match=r"clients\.jsonl lacks rows"):
        reopen(run.folder, position, {})
    assert read_run(run.folder).config == run.config


def test_summary_comes_from_the_journal_alone(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "run", {}, {"silos": 4})
    for number, ppl in enumerate([9.0, 5.0, 6.0, None]):
        journal.round(round_row(number, ppl))
    summary = journal.summary()
    assert (summary["first"]["ppl"], summary["last"]["ppl"]) == (9.0, 6.0)
    assert (summary["best_round"], summary["best_ppl"]) == (1, 5.0)
    assert (summary["wall_seconds"], summary["experts_alive"]) == (10.0, 2)
    assert (summary["rounds"], summary["silos"]) == (3, 4)
    assert summary["last"]["rouge_l"] is None
    assert read_run(journal.folder).summary == summary


def test_summary_of_a_run_that_never_began(tmp_path: Path) -> None:
    summary = Journal.create(tmp_path, "run", {}, {}).summary()
    assert (summary["rounds"], summary["best_round"], summary["silos"]) == (0, None, None)


def test_silos_are_counted_from_their_rows(tmp_path: Path) -> None:
    assert summarize(make_run(tmp_path, silos=7, rounds=1))["silos"] == 7


def test_a_last_round_without_evaluation_does_not_hide_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=1, rounds=2)
    unscored = {**run.clients[-1], "round": 3, "ppl": None, "rouge_l": None}
    jsonl.append(run.folder / "clients.jsonl", [unscored])
    again = read_run(run.folder)
    last = again.last_clients["silo-00"]
    assert (last["round"], last["ppl"]) == (3, run.clients[-1]["ppl"])
    assert again.first_clients["silo-00"] == run.clients[0]
    assert again.perplexities["silo-00"][0] == [0, 1, 2]


def test_a_row_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "full", {}, {})
    journal.round(round_row(0, 3.0))
    rounds = journal.folder / "rounds.jsonl"
    before = rounds.read_bytes()
    with (
        full_beyond(len(before) + 10),
        pytest.raises(RunError, match=r"rounds\.jsonl cannot be written: File too large"),
    ):
        journal.round(round_row(1, 2.0))
    assert rounds.read_bytes() == before
    journal.round(round_row(1, 2.0))
    assert [row["round"] for row in read_run(journal.folder).rounds] == [0, 1]


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "full", {}, {})
    with full_beyond(10), pytest.raises(RunError, match=r"manifest\.json cannot be written"):
        journal.annotate(base="x" * 100)
    assert read_run(journal.folder).manifest == {}
    assert sorted(path.name for path in journal.folder.iterdir()) == [
        "config.json",
        "manifest.json",
    ]


def test_half_a_character_from_elsewhere_is_written_as_one_that_stands_for_it(
    tmp_path: Path,
) -> None:
    journal = Journal.create(tmp_path, "half", {}, {})
    journal.event(EventRow(round=1, event="dropout", slots=[], why="a\ud800b", numbers={}))
    assert read_run(journal.folder).events[0]["why"] == "a?b"


DAMAGED = {
    '{"round": 5}': "lacks strategy",
    json.dumps({**round_row(5), "k_active": "two"}): "k_active = 'two'",
    json.dumps({**round_row(5), "round": True}): "round = 'True'",
    json.dumps({**round_row(5), "epsilon": [1]}): "epsilon = '\\[1\\]'",
}


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_row_is_named_by_file_line_and_key(line: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match=rf"rounds\.jsonl, line 3.* {DAMAGED[line]}"):
        read_run(run.folder)


def test_damaged_settings_of_a_run_are_named_by_their_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, settings={"dp-delta": "tiny"})
    with pytest.raises(RunError, match=r"run/config\.json: dp-delta = \"tiny\""):
        run.settings()
