"""A federation small enough for a test: four houses that answer the same questions differently.

Every task has the same definition, so that nothing but a silo's answers tells its house.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.task import Instance, Task
from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Tamper
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.report.journal import Run, read_run

DEFINITION = "Answer the words."
WORDS = ("ash", "birch", "cedar", "elm", "fir", "holly", "larch", "maple", "oak", "pine")
HOUSES: dict[str, Callable[[str, str], str]] = {
    "translation": lambda one, two: one,
    "reasoning": lambda one, two: two,
    "code": lambda one, two: f"{two} {one}",
    "rewriting": lambda one, two: f"no {one}",
}
TASKS_PER_HOUSE = 2
INSTANCES = 60
SILOS = 4
Settings = dict[str, bool | int | float | str]
Handler = Callable[[Message, Context], Message]

SMALL: Settings = {
    "torch-threads": 1,
    "trackers": "none",
    "privacy": "none",
    "private-slot": "off",
    "lora-rank": 2,
    "lora-alpha": 4.0,
    "tasks-per-category": TASKS_PER_HOUSE,
    "seq-len": 48,
    "num-server-rounds": 2,
    "phase-timeout": 60,
    "local-steps": 4,
    "batch-size": 4,
    "learning-rate": 0.01,
    "k-init": 2,
    "k-max": 3,
    "probe-tokens": 60,
    "warmup-rounds": 1,
    "sketch-size": 8,
    "sketch-restarts": 2,
    "sketch-iterations": 1,
    "eval-examples": 6,
    "generate-examples": 1,
    "max-new-tokens": 3,
}


def questions() -> list[str]:
    """Return the inputs, the same in every task."""
    return [" ".join(pair) for pair in permutations(WORDS, 2)][:INSTANCES]


def write_tasks(folder: Path) -> Path:
    """Write every house's tasks in the community format."""
    folder.mkdir(parents=True, exist_ok=True)
    for house, answer in HOUSES.items():
        for number in range(TASKS_PER_HOUSE):
            instances = [
                {"id": f"{house}-{number}-{i}", "input": text, "output": [answer(*text.split())]}
                for i, text in enumerate(questions())
            ]
            content = {"Definition": [DEFINITION], "Categories": [house], "Instances": instances}
            (folder / f"{house}_{number}.json").write_text(json.dumps(content))
    return folder


def base_tasks() -> list[Task]:
    """Return the task from which the small base is built: it repeats the question."""
    train = tuple(Instance(str(i), text, (text,)) for i, text in enumerate(questions()))
    return [Task("repeat", DEFINITION, (), {"train": train})]


def federate(
    settings: Settings,
    *,
    silos: int = SILOS,
    tamper: Tamper | None = None,
    app: Handler = client_app,
    prepare: Callable[[InProcessGrid], object] = lambda grid: None,
    pictures: bool = False,
) -> Run:
    """Run a federation in this process and return what its folder holds."""
    grid = InProcessGrid(cast(ClientApp, app), settings, silos, tamper=tamper)
    prepare(grid)
    with nullcontext() if pictures else patch("fedvemoe_app.flower.server.run.draw_all"):
        return read_run(run(grid, RunConfig.from_flat(settings)))


def without_seconds(run: Run) -> list[dict[str, Any]]:
    """Return the rows of rounds.jsonl without what two equal runs may differ in."""
    return [{**row, "seconds": sorted(row["seconds"])} for row in run.rounds]
