"""The embedded bank with habits: every silo answers one of its tasks in a way of its own.

Sharing cannot help there: what a silo alone does is noise to all others. The tasks are written in
the community's format, a file for each silo and task, with the map that gives them out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.data.builtin.words import NAMES
from fedvemoe_app.data.holdings import tasks_of
from fedvemoe_app.data.task import Instance, Task


def write(folder: Path, silos: int, seed: int) -> Mapping[str, str]:
    """Write the tasks of ``silos`` silos and return the settings that use them."""
    bank = folder / "tasks"
    bank.mkdir(parents=True, exist_ok=True)
    held = {
        silo_name(index): _held(bank, index, tasks_of(DataSettings(), seed, silos, index))
        for index in range(silos)
    }
    mapping = folder / "map.json"
    mapping.write_text(json.dumps(held), encoding="utf-8")
    return {
        "dataset-name": str(bank.absolute()),
        "client-task-mode": "explicit",
        "assignment-file": str(mapping.absolute()),
    }


def _held(bank: Path, index: int, tasks: tuple[Task, ...]) -> list[str]:
    """Write one silo's tasks, the first with its habit, and return their names."""
    names = []
    for number, task in enumerate(tasks):
        ending = f" {' '.join(_habit(index))}" if number == 0 else ""
        name = f"{silo_name(index)}_{task.name}"
        (bank / f"{name}.json").write_text(json.dumps(_content(task, ending)), encoding="utf-8")
        names.append(name)
    return names


def _habit(index: int) -> tuple[str, str]:
    """Return the two words, in an order of its own, with which a silo ends its answers."""
    first, second = divmod(index, len(NAMES))
    return NAMES[second], NAMES[(second + first + 1) % len(NAMES)]


def _content(task: Task, ending: str) -> dict[str, object]:
    rows: list[Instance] = [one for split in task.splits.values() for one in split]
    return {
        "Definition": [task.definition],
        "Categories": list(task.categories),
        "Instances": [
            {"id": one.id, "input": one.input, "output": [out + ending for out in one.outputs]}
            for one in rows
        ],
    }
