from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedvemoe_app.data.bank import Bank, open_bank
from fedvemoe_app.data.task import SPLITS, Instance, Task
from fedvemoe_app.errors import DataError, SettingError
from tests.data import layouts

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])


def everything(bank: Bank) -> dict[str, Task]:
    return {task.name: task for task in bank.load([card.name for card in bank.catalogue])}


def instances(task: Task) -> list[Instance]:
    return [instance for split in SPLITS for instance in task.splits[split]]


def ids(task: Task, split: str) -> set[str]:
    return {instance.id for instance in task.splits[split]}  # type: ignore[index]


# Layouts ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("suffix", layouts.WRITERS)
def test_every_layout_holds_the_same_tasks(tmp_path: Path, suffix: str, streaming: bool) -> None:
    layouts.WRITERS[suffix](tmp_path / "rows" / f"all.{suffix}", layouts.bank_records())
    layouts.write_community(tmp_path / "community")
    rows = open_bank(str(tmp_path / "rows"), streaming=streaming)
    community = open_bank(str(tmp_path / "community"), streaming=streaming)
    assert everything(rows) == everything(community)
    assert rows.fingerprint == community.fingerprint
    assert rows.problems == community.problems == ()
    assert [card.name for card in rows.catalogue] == ["to_code", "to_german"]
    assert all(card.instances == 60 for card in rows.catalogue)


@BOTH
@pytest.mark.parametrize("suffix", layouts.WRITERS)
@pytest.mark.parametrize(
    "name", ["{}/rows", "{}", "data/{}-00000-of-00001", "{}/to_german_{}", "rows_{}"]
)
def test_splits_are_read_from_folders_and_file_names(
    tmp_path: Path, suffix: str, name: str, streaming: bool
) -> None:
    starts = {"train": 0, "validation": 100, "test": 200}
    for split, start in starts.items():
        rows = layouts.records("to_german", 20, start)
        file = tmp_path / f"{name.replace('{}', split)}.{suffix}"
        layouts.WRITERS[suffix](file, rows)
    task = everything(open_bank(str(tmp_path), streaming=streaming))["to_german"]
    assert ids(task, "validation") == {f"to_german-{i}" for i in range(100, 120)}
    assert ids(task, "test") == {f"to_german-{i}" for i in range(200, 220)}
    assert ids(task, "train") | ids(task, "probe") == {f"to_german-{i}" for i in range(20)}
    assert ids(task, "probe")


@BOTH
def test_a_missing_validation_split_is_carved_from_train_alone(
    tmp_path: Path, streaming: bool
) -> None:
    layouts.write_jsonl(tmp_path / "train.jsonl", layouts.records("t", 200))
    layouts.write_jsonl(tmp_path / "test.jsonl", layouts.records("t", 5, 900))
    task = everything(open_bank(str(tmp_path), streaming=streaming))["t"]
    assert ids(task, "test") == {f"t-{i}" for i in range(900, 905)}
    assert 5 < len(task.splits["validation"]) < 45


@BOTH
def test_a_task_with_test_rows_alone_is_divided_and_says_so(
    tmp_path: Path, streaming: bool
) -> None:
    layouts.write_jsonl(tmp_path / "train.jsonl", layouts.records("seen", 30))
    layouts.write_jsonl(tmp_path / "test.jsonl", layouts.records("unseen", 30))
    bank = open_bank(str(tmp_path), streaming=streaming)
    assert len(everything(bank)["unseen"].splits["train"]) > 10
    (problem,) = bank.problems
    assert "unseen" in problem.reason
    assert "only test" in problem.reason


@BOTH
def test_a_single_file_a_tasks_folder_and_a_byte_order_mark(
    tmp_path: Path, streaming: bool
) -> None:
    content = json.dumps(layouts.community_task(layouts.records("t")))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.json").write_text("\ufeff" + content, encoding="utf-8")
    (tmp_path / "package.json").write_text("{}")  # beside tasks/: not a task file
    folder = open_bank(str(tmp_path), streaming=streaming)
    single = open_bank(str(tmp_path / "tasks" / "t.json"), streaming=streaming)
    assert everything(folder) == everything(single)


def test_json_lines_in_a_json_file_and_a_definition_that_is_a_string(tmp_path: Path) -> None:
    layouts.write_jsonl(tmp_path / "lines" / "rows.json", layouts.records("t"))
    content = layouts.community_task(layouts.records("t"), Definition="Do t.")
    layouts.write_json(tmp_path / "files" / "t.json", content)
    lines = open_bank(str(tmp_path / "lines"))
    assert everything(lines) == everything(open_bank(str(tmp_path / "files")))


def test_categories_and_mean_lengths_are_on_the_card(tmp_path: Path) -> None:
    content = {
        "Definition": "Spell.",
        "Categories": ["Spelling", "Text"],
        "Instances": [{"input": "ab" * n, "output": "x" * n} for n in (1, 2, 3)],
    }
    layouts.write_json(tmp_path / "spell.json", content)
    (card,) = open_bank(str(tmp_path)).catalogue
    assert (card.name, card.categories, card.instances) == ("spell", ("Spelling", "Text"), 3)
    assert (card.input_chars, card.output_chars) == (4.0, 2.0)


# The hub ------------------------------------------------------------------------------------


@BOTH
def test_a_hub_name_goes_through_load_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    splits = {
        "train": datasets.Dataset.from_list(layouts.bank_records()),
        "test": datasets.Dataset.from_list(layouts.records("to_german", 7, 500)),
    }
    calls: list[tuple[str, bool]] = []

    def load_dataset(name: str, streaming: bool) -> Any:
        calls.append((name, streaming))
        if not streaming:
            return datasets.DatasetDict(splits)
        streams = {split: table.to_iterable_dataset() for split, table in splits.items()}
        return datasets.IterableDatasetDict(streams)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    bank = open_bank("someone/natural-instructions", streaming=streaming, max_instances=10)
    task = bank.load(["to_german"])[0]
    assert ids(task, "test") == {f"to_german-{i}" for i in range(500, 507)}
    assert len(task.splits["train"]) == 10
    assert calls[0] == ("someone/natural-instructions", streaming)
    assert len(calls) == (2 if streaming else 1)


@BOTH
def test_a_hub_failure_says_what_was_tried_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    def load_dataset(name: str, streaming: bool) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"someone/tasks.*load_dataset.*no network.*local folder"):
        open_bank("someone/tasks", streaming=streaming)


@pytest.mark.parametrize(
    "source", ["./gone", "../gone", "/gone/tasks", "gone", "a/b/c", "a/b.json"]
)
def test_a_path_that_is_missing_is_never_sent_to_the_hub(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no such folder or file"):
        open_bank(source)


def test_a_missing_folder_inside_an_existing_one_is_never_sent_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="data/tasks: no such folder"):
        open_bank("data/tasks")


# References and ids -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("with_id", [True, False])
def test_rows_of_one_question_become_its_references(
    tmp_path: Path, with_id: bool, streaming: bool
) -> None:
    rows = layouts.records("t", 30)
    again = [{**rows[4], "targets": "another"}, {**rows[4], "targets": ["a third", "another"]}]
    rows[5:5] = again
    if not with_id:
        rows = [{key: row[key] for key in row if key != "id"} for row in rows]
    layouts.write_jsonl(tmp_path / "rows.jsonl", rows)
    bank = open_bank(str(tmp_path), streaming=streaming)
    (task,) = bank.load(["t"])
    (merged,) = [i for i in instances(task) if i.input == "t question 4"]
    assert merged.outputs == ("answer 4", "another", "a third")
    assert len(task) == bank.catalogue[0].instances == 30


@BOTH
def test_a_repeated_id_with_another_input_is_a_named_problem(
    tmp_path: Path, streaming: bool
) -> None:
    rows = layouts.records("t", 30)
    rows[7] = {**rows[7], "id": "t-3"}
    layouts.write_jsonl(tmp_path / "rows.jsonl", rows)
    bank = open_bank(str(tmp_path), streaming=streaming)
    loaded = bank.read(["t"])
    (problem,) = (*bank.problems, *loaded.problems)
    assert "rows.jsonl, line 8" in problem.where
    assert "duplicate id 't-3'" in problem.reason
    assert len(loaded.tasks[0]) == 29


def test_a_question_in_two_splits_stays_in_the_held_out_one(tmp_path: Path) -> None:
    layouts.write_jsonl(tmp_path / "train.jsonl", layouts.records("t", 30))
    layouts.write_jsonl(tmp_path / "test.jsonl", layouts.records("t", 2))
    bank = open_bank(str(tmp_path))
    task = everything(bank)["t"]
    assert ids(task, "test") == {"t-0", "t-1"}
    assert not {"t-0", "t-1"} & (ids(task, "train") | ids(task, "probe") | ids(task, "validation"))
    assert all("kept in test" in problem.reason for problem in bank.problems)
    assert len(bank.problems) == 2


# Limits, determinism, names -----------------------------------------------------------------


@BOTH
def test_max_instances_bounds_every_split_and_keeps_the_same_instances(
    tmp_path: Path, streaming: bool
) -> None:
    source = str(layouts.write_community(tmp_path / "bank", 400))
    few = everything(open_bank(source, streaming=streaming, max_instances=3))
    more = everything(open_bank(source, streaming=streaming, max_instances=9))
    for name, task in few.items():
        assert {split: len(task.splits[split]) for split in SPLITS} == dict.fromkeys(SPLITS, 3)
        assert all(ids(task, split) < ids(more[name], split) for split in SPLITS)


def test_streaming_and_holding_keep_the_same_instances(tmp_path: Path) -> None:
    source = str(layouts.write_community(tmp_path, 400))
    held = open_bank(source, max_instances=5)
    streamed = open_bank(source, streaming=True, max_instances=5)
    assert everything(held) == everything(streamed)
    assert held.catalogue == streamed.catalogue


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = layouts.bank_records()
    layouts.write_jsonl(tmp_path / "a" / "rows.jsonl", rows)
    layouts.write_jsonl(tmp_path / "b" / "rows.jsonl", rows[::-1])
    one, other = open_bank(str(tmp_path / "a")), open_bank(str(tmp_path / "b"))
    assert everything(one) == everything(other)
    assert one.fingerprint == other.fingerprint


def test_the_fingerprint_sees_one_changed_answer(tmp_path: Path) -> None:
    rows = layouts.bank_records()
    layouts.write_jsonl(tmp_path / "a" / "rows.jsonl", rows)
    layouts.write_jsonl(tmp_path / "b" / "rows.jsonl", [{**rows[0], "targets": "new"}, *rows[1:]])
    one, other = open_bank(str(tmp_path / "a")), open_bank(str(tmp_path / "b"))
    assert one.fingerprint != other.fingerprint


@BOTH
def test_wanted_limits_the_bank_and_unknown_names_get_near_misses(
    tmp_path: Path, streaming: bool
) -> None:
    source = str(layouts.write_community(tmp_path))
    bank = open_bank(source, streaming=streaming, wanted=["to_code"])
    assert [card.name for card in bank.catalogue] == ["to_code"]
    with pytest.raises(DataError, match="no usable task 'gone'"):
        open_bank(source, streaming=streaming, wanted=["to_code", "gone"])
    with pytest.raises(DataError, match="no usable task 'to_germna'; did you mean to_german"):
        open_bank(source, streaming=streaming).load(["to_germna"])


def test_a_second_pass_opens_only_the_files_of_the_wanted_tasks(tmp_path: Path) -> None:
    bank = open_bank(str(layouts.write_community(tmp_path)), streaming=True)
    (tmp_path / "to_german.json").write_text("no longer JSON")
    assert bank.load(["to_code"])[0].name == "to_code"


def test_settings_out_of_range_are_named(tmp_path: Path) -> None:
    source = str(layouts.write_community(tmp_path))
    with pytest.raises(SettingError, match="probe-fraction = 1"):
        open_bank(source, probe_fraction=1.0)
    with pytest.raises(SettingError, match=r"test-fraction = 0\.6"):
        open_bank(source, validation_fraction=0.5, test_fraction=0.6)
    with pytest.raises(SettingError, match="max-instances = 0"):
        open_bank(source, max_instances=0)
    with pytest.raises(DataError, match="builtin:tasks"):
        open_bank("builtin:nothing")


def test_the_builtin_bank_opens_with_limits_and_a_seed() -> None:
    bank = open_bank("builtin:tasks", max_instances=4, seed=3)
    name = bank.catalogue[0].name
    (task,) = bank.load([name])
    assert {len(task.splits[split]) for split in SPLITS} == {4}
    assert bank.catalogue[0].domain == task.domain != ""
    only = open_bank("builtin:tasks", max_instances=4, seed=3, wanted=[name])
    assert only.load([name]) == (task,)
    assert [card.name for card in only.catalogue] == [name]
