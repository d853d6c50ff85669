"""Which silo holds which tasks: by keyword, by a map file, or in turn.

Where several silos hold the same task, each holds its own part of the instances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedvemoe_app.data.assignment.keywords import KEYWORDS, Keywords, Match
from fedvemoe_app.data.assignment.pools import pools
from fedvemoe_app.data.assignment.silomap import read_map
from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.data.splits import NEEDED, unit
from fedvemoe_app.data.task import Instance, Task
from fedvemoe_app.errors import DataError, SettingError
from fedvemoe_app.seeds import stream

MODES = ("keyword", "explicit", "round-robin")


@dataclass(frozen=True, slots=True)
class Share:
    """Part ``part`` of the ``parts`` into which a task's instances are divided."""

    task: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Silo:
    """One client's tasks (``category`` is "" where tasks were not given by keyword)."""

    name: str
    category: str
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Every silo's tasks. ``notes`` say where a silo got fewer tasks than asked for."""

    mode: str
    silos: tuple[Silo, ...]
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks that some silo holds, in order of name."""
        return tuple(sorted({share.task for silo in self.silos for share in silo.shares}))


def assign(
    catalogue: Sequence[TaskCard],
    *,
    mode: str,
    silos: int,
    categories: Sequence[str] = (),
    tasks_per_category: int = 1,
    keywords: Keywords | None = None,
    map_file: str | Path | None = None,
    seed: int = 0,
) -> Assignment:
    """Give every silo its tasks; the same arguments always give the same assignment.

    ``keyword``: silo i gets ``tasks_per_category`` tasks of ``categories[i % len(categories)]``
    (see ``assignment.pools`` for tasks that match several); silos of one category get different
    tasks while there are enough, those matched in ``Categories`` before those matched
    in the definition, in a seeded order. ``explicit``: the silos of ``map_file``.
    ``round-robin``: all tasks, dealt in a seeded order.

    Raises
    ------
    SettingError
        If a setting is unknown, missing or out of range.
    DataError
        If a category matches no task, or the map file cannot be used.
    """
    _check(mode, silos, categories, tasks_per_category, map_file)
    if mode == "keyword":
        lists = KEYWORDS if keywords is None else keywords
        return _by_keyword(catalogue, silos, categories, tasks_per_category, lists, seed)
    if mode == "explicit":
        named = read_map(Path(str(map_file)), silos, [card.name for card in catalogue])
        return Assignment(mode, _divided([Silo(n, "", _whole(t)) for n, t in named.items()]))
    return Assignment(mode, _divided(_in_turn(catalogue, silos, seed)))


def silo_name(index: int) -> str:
    """Return the name of silo ``index``."""
    return f"silo-{index:02d}"


def shard(task: Task, part: int, parts: int) -> Task:
    """Return part ``part`` of ``parts`` of a task: disjoint, of equal size within one per split.

    Instances are ranked by hash and dealt in turn, so parts depend on no file's order.

    Raises
    ------
    DataError
        If train, probe or test would be empty in some part.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} is not one of {parts}")
    for split in NEEDED:
        if len(task.splits[split]) < parts:
            raise DataError(
                f"task {task.name} is shared by {parts} silos but has only "
                f"{len(task.splits[split])} {split} instances; give it to fewer silos, or add "
                "instances"
            )
    if parts == 1:
        return task
    splits = {split: _dealt(held, part, parts) for split, held in task.splits.items()}
    return replace(task, splits=splits)


def _dealt(held: Sequence[Instance], part: int, parts: int) -> tuple[Instance, ...]:
    ranked = sorted(held, key=lambda i: (unit("shard", f"{i.id}\x1f{i.input}"), i.id))
    return tuple(sorted(ranked[part::parts], key=lambda i: i.id))


def _by_keyword(
    catalogue: Sequence[TaskCard],
    silos: int,
    categories: Sequence[str],
    count: int,
    keywords: Keywords,
    seed: int,
) -> Assignment:
    pool = pools(catalogue, list(dict.fromkeys(categories[:silos])), keywords)
    dealt: Counter[str] = Counter()
    chosen: list[Silo] = []
    notes: list[str] = []
    for index in range(silos):
        category = categories[index % len(categories)]
        tasks = _strongest_first(pool[category], seed, category)
        taken = min(count, len(tasks))
        names = [tasks[(dealt[category] + step) % len(tasks)] for step in range(taken)]
        dealt[category] += taken
        chosen.append(Silo(silo_name(index), category, _whole(names)))
        if taken < count:
            notes.append(
                f"{silo_name(index)}: only {taken} tasks match '{category}', fewer than "
                f"tasks-per-category = {count}"
            )
    return Assignment("keyword", _divided(chosen), tuple(notes))


def _strongest_first(pool: Sequence[Match], seed: int, category: str) -> list[str]:
    ordered = _shuffled([match.task for match in pool], seed, category)
    strength = {match.task: match.strength for match in pool}
    return sorted(ordered, key=lambda task: -strength[task])


def _in_turn(catalogue: Sequence[TaskCard], silos: int, seed: int) -> list[Silo]:
    names = _shuffled([card.name for card in catalogue], seed, "round-robin")
    rounds = max(len(names), silos)  # with fewer tasks than silos, tasks go round again
    dealt = [names[turn % len(names)] for turn in range(rounds)]
    return [Silo(silo_name(index), "", _whole(dealt[index::silos])) for index in range(silos)]


def _shuffled(names: Sequence[str], seed: int, purpose: str) -> list[str]:
    ordered = sorted(names)
    return [ordered[i] for i in stream(seed, "assign", purpose).permutation(len(ordered))]


def _whole(tasks: Sequence[str]) -> tuple[Share, ...]:
    return tuple(Share(task) for task in tasks)


def _divided(silos: Sequence[Silo]) -> tuple[Silo, ...]:
    """Return the silos with the parts of every task that several of them hold."""
    holders = Counter(share.task for silo in silos for share in silo.shares)
    seen: Counter[str] = Counter()
    divided = []
    for silo in silos:
        shares = tuple(
            Share(share.task, seen[share.task], holders[share.task]) for share in silo.shares
        )
        seen.update(share.task for share in shares)
        divided.append(replace(silo, shares=shares))
    return tuple(divided)


def _check(
    mode: str, silos: int, categories: Sequence[str], count: int, map_file: str | Path | None
) -> None:
    if mode not in MODES:
        raise SettingError(f"client-task-mode = {mode} is unknown; use one of {', '.join(MODES)}")
    if silos < 1:
        raise SettingError(f"the number of silos is {silos}; it must be at least 1")
    if mode == "keyword" and not categories:
        raise SettingError("keyword-categories is empty; name at least one, such as translation")
    if mode == "keyword" and count < 1:
        raise SettingError(f"tasks-per-category = {count} must be at least 1")
    if mode == "explicit" and map_file is None:
        raise SettingError("client-task-mode = explicit needs assignment-file, a map silo -> tasks")
