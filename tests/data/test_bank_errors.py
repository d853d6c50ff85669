"""Bad input: an unreadable file is an error, a bad instance a problem; both say where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.errors import DataError
from tests.data import layouts

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])


def task_file(folder: Path, content: object) -> str:
    layouts.write_json(folder / "t.json", content)
    return str(folder)


@BOTH
def test_an_empty_folder(tmp_path: Path, streaming: bool) -> None:
    with pytest.raises(DataError, match=r"no task files in this folder; put \*.json"):
        open_bank(str(tmp_path), streaming=streaming)


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Instances": []}, "t.json: the task has no instances"),
        ({"Instances": None}, "t.json: field 'Instances' is missing"),
        ({"Instances": {"a": 1}}, "t.json: field 'Instances' is a dict"),
        ({"Definition": None}, "t.json: field 'Definition' is missing"),
        ({"Definition": 3}, "t.json: field 'Definition' must be a string, not int"),
        ({"Definition": [" "]}, "t.json: field 'Definition' is empty"),
        ({"Categories": [1]}, "t.json: field 'Categories' must be a string, not int"),
    ],
)
def test_a_task_file_with_a_bad_head(
    tmp_path: Path, streaming: bool, change: dict[str, object], message: str
) -> None:
    content = {**layouts.community_task(layouts.records("t")), **change}
    with pytest.raises(DataError, match=message):
        open_bank(task_file(tmp_path, content), streaming=streaming)


@BOTH
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "x", "output": "a"}, "field 'input' is missing"),
        ({"id": "x", "input": "q"}, "field 'output' is missing"),
        ({"id": "x", "input": 5, "output": "a"}, "field 'input' must be a string, not int"),
        ({"id": "x", "input": "q", "output": [1]}, "field 'output' must be a string, not int"),
        ({"id": "x", "input": "q", "output": []}, "field 'output' is empty"),
        ({"id": ["x"], "input": "q", "output": "a"}, "field 'id' must be a string, not list"),
        ({"id": "x", "input": "\ud800", "output": "a"}, "half a surrogate pair"),
        ("q -> a", "must be an object"),
    ],
)
def test_a_bad_instance_is_skipped_and_recorded(
    tmp_path: Path, streaming: bool, bad: object, reason: str
) -> None:
    content = layouts.community_task(layouts.records("t"))
    content["Instances"].insert(4, bad)  # type: ignore[attr-defined]
    bank = open_bank(task_file(tmp_path, content), streaming=streaming)
    (problem,) = bank.problems
    assert "t.json, instance 4" in problem.where
    assert reason in problem.reason
    assert len(bank.load(["t"])[0]) == bank.catalogue[0].instances == 60


@BOTH
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
def test_a_bad_row_is_skipped_and_recorded(tmp_path: Path, streaming: bool, suffix: str) -> None:
    rows = layouts.records("t")
    rows[4] = {**rows[4], "targets": ""}
    layouts.WRITERS[suffix](tmp_path / f"rows.{suffix}", rows)
    bank = open_bank(str(tmp_path), streaming=streaming)
    (problem,) = bank.problems
    counted_from = {"jsonl": "line 5", "csv": "line 6", "parquet": "row 4", "json": "row 4"}
    assert f"rows.{suffix}, {counted_from[suffix]}" in problem.where
    assert "'targets' is empty" in problem.reason
    assert len(bank.load(["t"])[0]) == 59


@BOTH
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
def test_a_file_without_a_needed_column_is_an_error(
    tmp_path: Path, streaming: bool, suffix: str
) -> None:
    rows = [{"task_name": "t", "definition": "Do t.", "inputs": f"{i}"} for i in range(9)]
    layouts.WRITERS[suffix](tmp_path / f"rows.{suffix}", rows)
    with pytest.raises(DataError, match=r"not one of its 9 entries.*'targets' is missing"):
        open_bank(str(tmp_path), streaming=streaming)


@BOTH
def test_broken_json_is_named_to_the_column(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "t.json").write_text('{"Definition": "x",\n "Instances": [}\n')
    with pytest.raises(DataError, match=r"t\.json: broken JSON at line 2, column 16"):
        open_bank(str(tmp_path), streaming=streaming)


@BOTH
def test_a_broken_line_is_a_problem_named_to_the_column(tmp_path: Path, streaming: bool) -> None:
    file = layouts.write_jsonl(tmp_path / "rows.jsonl", layouts.records("t"))
    file.write_text(file.read_text() + '{"task_name": "t", oops\n')
    bank = open_bank(str(tmp_path), streaming=streaming)
    (problem,) = bank.problems
    assert problem.where.endswith("rows.jsonl, line 61")
    assert "broken JSON at column 20" in problem.reason


@BOTH
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_file_that_is_not_utf8_is_named_to_the_byte(
    tmp_path: Path, streaming: bool, suffix: str
) -> None:
    file = layouts.WRITERS[suffix](tmp_path / f"rows.{suffix}", layouts.records("t"))
    good = file.read_bytes()
    file.write_bytes(good + "Ä".encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=f"rows.{suffix}: not UTF-8 at byte {len(good)} "):
        open_bank(str(tmp_path), streaming=streaming)


@BOTH
def test_other_files_that_cannot_be_read(tmp_path: Path, streaming: bool) -> None:
    cases = {
        "a.parquet": (b"not parquet", "cannot be read as parquet"),
        "b.json": (b"3", "must hold a task"),
        "c.jsonl": (b"\n\n", "holds no rows"),
        "d.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "e.txt": (b"hello", "unknown kind of file"),
        "f.csv": (b'task_name,definition,inputs,targets\nt,d,"i"x,t\n', "broken CSV after line 1"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: .*{message}"):
            open_bank(str(tmp_path / name), streaming=streaming)


@BOTH
def test_a_task_too_small_is_left_out_and_named(tmp_path: Path, streaming: bool) -> None:
    layouts.write_jsonl(
        tmp_path / "rows.jsonl", [*layouts.records("big"), *layouts.records("tiny", 2)]
    )
    bank = open_bank(str(tmp_path), streaming=streaming)
    assert [card.name for card in bank.catalogue] == ["big"]
    (problem,) = bank.problems
    assert "task tiny has 2 usable instances" in problem.reason
    assert "needs at least 3" in problem.reason


@BOTH
def test_a_bank_of_small_tasks_alone_is_an_error(tmp_path: Path, streaming: bool) -> None:
    layouts.write_jsonl(tmp_path / "rows.jsonl", layouts.records("tiny", 2))
    with pytest.raises(DataError, match=r"no usable task.*\n.*task tiny has 2 usable"):
        open_bank(str(tmp_path), streaming=streaming)


def test_one_question_asked_many_times_cannot_be_divided(tmp_path: Path) -> None:
    rows = [{**row, "inputs": "always the same"} for row in layouts.records("t")]
    layouts.write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="60 usable instances with 1 different inputs"):
        open_bank(str(tmp_path))
    with pytest.raises(DataError, match="60 usable instances with 1 different inputs"):
        open_bank(str(tmp_path), streaming=True).load(["t"])


def test_duplicate_ids_in_a_task_file_are_named(tmp_path: Path) -> None:
    content = layouts.community_task(layouts.records("t"))
    twin = {"id": "t-5", "input": "another", "output": "x"}
    content["Instances"].append(twin)  # type: ignore[attr-defined]
    (problem,) = open_bank(task_file(tmp_path, content)).problems
    assert "instance 60 (id 't-5')" in problem.where
    assert "duplicate id" in problem.reason


def test_a_long_csv_field_is_no_error(tmp_path: Path) -> None:
    rows = layouts.records("t", 5)
    rows[0] = {**rows[0], "inputs": "long " * 40_000}
    layouts.write_csv(tmp_path / "rows.csv", rows)
    assert open_bank(str(tmp_path)).catalogue[0].instances == 5


def test_descriptions_of_a_dataset_are_not_tasks(tmp_path: Path) -> None:
    layouts.write_community(tmp_path)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"description": "x"}))
    assert len(open_bank(str(tmp_path)).catalogue) == 2
