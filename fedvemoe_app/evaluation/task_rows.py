"""Rows of the scores per task: a task that few silos hold counts among others.

The sum over one silo is that silo's score. Under aggregate reporting a row of ``tasks.jsonl`` is
therefore a task, or several together, that at least ``c-min`` silos hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedvemoe_app.data.assign import Silo

REST = "all other tasks"


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The rows: ``names`` [R], ``categories`` [R] ("" for several), and the number of each task's.

    A task's scores count in one row, so the sum over all rows is that over all tasks.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    numbers: Mapping[str, int]


def task_rows(
    silos: Sequence[Silo], *, least: int = 1, present: Collection[str] | None = None
) -> TaskRows:
    """Return the rows of the tasks that ``silos`` hold.

    Tasks with fewer than ``least`` holders among those ``present`` (all, where it is left out)
    are folded: into one row of their category if its silos are enough, the others into
    ``all other tasks``; where even that has too few silos, the smallest other row joins it.
    """
    holders, category = _held(silos, present)
    rows: dict[str, list[str]] = {}
    of_row: dict[str, str] = {}
    rest: list[str] = []
    few: dict[str, list[str]] = {}
    for task, held in holders.items():
        if least <= 1 or len(held) >= least:
            rows[task], of_row[task] = [task], category[task]
        else:
            few.setdefault(category[task], []).append(task)
    for kind, tasks in few.items():
        if kind and _crowd(tasks, holders) >= least:
            rows.setdefault(f"other {kind} tasks", []).extend(tasks)
            of_row[f"other {kind} tasks"] = kind
        else:
            rest += tasks
    if rest and rows and _crowd(rest, holders) < least:
        rest += rows.pop(min(rows, key=lambda name: (_crowd(rows[name], holders), name)))
    if rest:
        rows.setdefault(REST if rows else "all tasks", []).extend(rest)
    names = tuple(sorted(rows, key=lambda name: (name not in holders, name)))
    numbers = {task: number for number, name in enumerate(names) for task in rows[name]}
    return TaskRows(names, tuple(of_row.get(name, "") for name in names), numbers)


def _held(
    silos: Sequence[Silo], present: Collection[str] | None
) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return the holders and the category of every task, in order of its name."""
    holders: dict[str, set[str]] = {}
    category: dict[str, str] = {}
    for silo in silos:
        for share in silo.shares:
            category[share.task] = silo.category
            names = holders.setdefault(share.task, set())
            if present is None or silo.name in present:
                names.add(silo.name)
    return dict(sorted(holders.items())), category


def _crowd(tasks: Sequence[str], holders: Mapping[str, set[str]]) -> int:
    return len(set[str]().union(*(holders[task] for task in tasks)))
