"""Each silo's tasks as files of its own: what a deployment on one machine begins with.

A bank is dealt out as a simulation would deal it, and written in the layout of the hub, one file
for each split, so that what a simulation tests on stays test data here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.data.assign import Silo
from fedvemoe_app.data.holdings import assignment_of, tasks_of
from fedvemoe_app.data.task import Split, Task
from fedvemoe_app.data.tasklist import write_task_list

# A bank carves its probe part out of train by itself, and so will each silo's.
FILES: dict[str, tuple[Split, ...]] = {
    "train": ("train", "probe"),
    "validation": ("validation",),
    "test": ("test",),
}


def write_holdings(folder: Path, settings: DataSettings, seed: int, silos: int) -> tuple[Silo, ...]:
    """Write ``folder``/<silo>/<split>.jsonl for ``silos`` silos; return who they are.

    Raises
    ------
    DataError, SettingError
        Where the settings' bank cannot be read or dealt out.
    """
    assignment = assignment_of(settings, seed, silos)
    for index, silo in enumerate(assignment.silos):
        (folder / silo.name).mkdir(parents=True)
        tasks = tasks_of(settings, seed, silos, index)
        for name, splits in FILES.items():
            lines = (json.dumps(row, ensure_ascii=False) for row in _rows(tasks, splits))
            text = "".join(f"{line}\n" for line in lines)
            if text:
                (folder / silo.name / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return assignment.silos


def write_tasks_of(file: Path, silos: tuple[Silo, ...]) -> None:
    """Write the list of all silos' tasks, which is what the server may know of them."""
    write_task_list(file, {share.task: silo.category for silo in silos for share in silo.shares})


def _rows(tasks: tuple[Task, ...], splits: tuple[Split, ...]) -> Iterator[dict[str, object]]:
    """Yield one row per reference answer; rows of one instance follow one another."""
    for task in tasks:
        for instance in (one for split in splits for one in task.splits[split]):
            for output in instance.outputs:
                yield {
                    "id": instance.id,
                    "task_name": task.name,
                    "definition": task.definition,
                    "categories": list(task.categories),
                    "inputs": instance.input,
                    "targets": output,
                }
