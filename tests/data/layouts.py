"""Small banks on disk, in every layout that the reader knows."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

Record = dict[str, object]
DEFINITIONS = {
    "to_german": "Translate the word to German.",
    "to_code": "Write bash code that does what the sentence asks for.",
}


def records(task: str, count: int = 60, start: int = 0, **extra: object) -> list[Record]:
    """Return rows in the hub's layout, each with one answer."""
    return [
        {
            "task_name": task,
            "id": f"{task}-{i}",
            "definition": DEFINITIONS.get(task, f"Do {task}."),
            "inputs": f"{task} question {i}",
            "targets": f"answer {i}",
            **extra,
        }
        for i in range(start, start + count)
    ]


def bank_records(count: int = 60) -> list[Record]:
    """Return the rows of two tasks."""
    return [record for task in DEFINITIONS for record in records(task, count)]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_json_list(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    return write_json(path, list(rows))


WRITERS: dict[str, Callable[[Path, Sequence[Mapping[str, object]]], Path]] = {
    "jsonl": write_jsonl,
    "json": write_json_list,
    "csv": write_csv,
    "parquet": write_parquet,
}


def community_task(rows: Sequence[Mapping[str, object]], **fields: object) -> Record:
    """Return one task file's content in the community format."""
    instances = [
        {"id": row["id"], "input": row["inputs"], "output": [row["targets"]]} for row in rows
    ]
    return {"Definition": [rows[0]["definition"]], "Instances": instances, **fields}


def write_community(folder: Path, count: int = 60) -> Path:
    """Write the two tasks of :func:`bank_records` as community files."""
    for task in DEFINITIONS:
        write_json(folder / f"{task}.json", community_task(records(task, count)))
    return folder


def real_tasks() -> Path:
    """Return the folder of real tasks, or skip the test where there is none."""
    beside = Path(__file__).parents[3] / "shared" / "taskbank" / "tasks"
    folder = Path(os.environ.get("FEDVEMOE_TASKBANK", beside))
    if not folder.is_dir():
        pytest.skip(f"no real task bank at {folder}; set FEDVEMOE_TASKBANK")
    return folder
