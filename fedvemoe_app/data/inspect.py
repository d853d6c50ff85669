"""What ``fedvemoe data inspect`` shows: the tasks, what their keywords match, and who gets them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedvemoe_app.data.assign import Assignment, Silo, shard
from fedvemoe_app.data.assignment.keywords import KEYWORDS, Keywords, Match
from fedvemoe_app.data.assignment.pools import matches
from fedvemoe_app.data.bank import Bank
from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.data.reading.records import Problem
from fedvemoe_app.data.task import SPLITS, Split, Task

Counts = Mapping[Split, int]
SHOWN = 20


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task. ``counts`` is empty where a streamed bank did not read the instances."""

    card: TaskCard
    counts: Counts
    matches: tuple[Match, ...]
    silos: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiloLine:
    """One silo with its instances per split, summed over its shares."""

    silo: Silo
    counts: Counts


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the table shows. ``unassigned`` are names of tasks that no silo holds."""

    source: str
    tasks: tuple[TaskLine, ...]
    silos: tuple[SiloLine, ...]
    unassigned: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def report(bank: Bank, assignment: Assignment, keywords: Keywords | None = None) -> Report:
    """Gather the report; a streamed bank is read for the assigned tasks only.

    Raises
    ------
    DataError
        If an assigned task cannot be read, or is too small for the silos that share it.
    """
    assigned = assignment.tasks
    names = assigned if bank.streaming else [card.name for card in bank.catalogue]
    loaded = bank.read(names)
    tasks = {task.name: task for task in loaded.tasks}
    found = _matches(bank.catalogue, assignment, KEYWORDS if keywords is None else keywords)
    return Report(
        source=bank.source,
        tasks=tuple(_task_line(card, tasks, found, assignment) for card in bank.catalogue),
        silos=tuple(SiloLine(silo, _silo_counts(silo, tasks)) for silo in assignment.silos),
        unassigned=tuple(c.name for c in bank.catalogue if c.name not in assigned),
        problems=(*bank.problems, *loaded.problems),
        notes=assignment.notes,
    )


def _matches(
    catalogue: Sequence[TaskCard], assignment: Assignment, keywords: Keywords
) -> list[Match]:
    """Search for the categories of the assignment first, then for all that have a list."""
    asked = [silo.category for silo in assignment.silos if silo.category]
    found = matches(catalogue, list(dict.fromkeys([*asked, *keywords])), keywords)
    return [match for pool in found.values() for match in pool]


def _task_line(
    card: TaskCard, tasks: Mapping[str, Task], found: Iterable[Match], assignment: Assignment
) -> TaskLine:
    holders = [s.name for s in assignment.silos if any(h.task == card.name for h in s.shares)]
    return TaskLine(
        card,
        _counts(tasks[card.name]) if card.name in tasks else {},
        tuple(match for match in found if match.task == card.name),
        tuple(holders),
    )


def _counts(task: Task) -> Counts:
    return {split: len(task.splits[split]) for split in SPLITS}


def _silo_counts(silo: Silo, tasks: Mapping[str, Task]) -> Counts:
    total: Counter[Split] = Counter()
    for share in silo.shares:
        total.update(_counts(shard(tasks[share.task], share.part, share.parts)))
    return {split: total[split] for split in SPLITS}


def render(found: Report, console: Console) -> None:
    """Print the report: tasks, what was skipped, unassigned tasks, silos."""
    shown = [line for line in found.tasks if line.silos] or list(found.tasks)[:SHOWN]
    console.print(_task_table(shown, found.source))
    _list(console, "skipped or changed", [str(problem) for problem in found.problems])
    _list(
        console, "unassigned tasks", [_unassigned(line) for line in found.tasks if not line.silos]
    )
    console.print(_silo_table(found.silos))
    _list(console, "notes", found.notes)


def _task_table(lines: Sequence[TaskLine], source: str) -> Table:
    table = _table(f"assigned tasks of {source}", "task", "categories", "matched", "silos")
    for heading in ("instances", *SPLITS, "input chars", "output chars"):
        table.add_column(heading, justify="right")
    for line in lines:
        card = line.card
        lengths = (f"{card.input_chars:.0f}", f"{card.output_chars:.0f}")
        numbers = (str(card.instances), *_numbers(line.counts), *lengths)
        texts = (card.name, ", ".join(card.categories), _matched(line), ", ".join(line.silos))
        table.add_row(*map(Text, texts), *numbers)
    return table


def _silo_table(lines: Sequence[SiloLine]) -> Table:
    table = _table("silos", "silo", "category", "tasks")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for line in lines:
        tasks = "\n".join(
            share.task + (f" ({share.part + 1}/{share.parts})" if share.parts > 1 else "")
            for share in line.silo.shares
        )
        texts = map(Text, (line.silo.name, line.silo.category, tasks))
        table.add_row(*texts, *_numbers(line.counts))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _numbers(counts: Counts) -> tuple[str, ...]:
    return tuple(str(counts[split]) if counts else "-" for split in SPLITS)


def _matched(line: TaskLine) -> str:
    return "\n".join(f"{m.category}: '{m.keyword}' in {m.field}" for m in line.matches)


def _unassigned(line: TaskLine) -> str:
    categories = ", ".join(dict.fromkeys(match.category for match in line.matches))
    matched = f"matches {categories}" if categories else "matches no category"
    return f"{line.card.name}: {line.card.instances} instances, {matched}"


def _list(console: Console, title: str, items: Sequence[str]) -> None:
    if items:
        console.print(Text(f"{title} ({len(items)})", style="bold"))
    for item in items[:SHOWN]:
        console.print(Text(f"  {item}"))
    if len(items) > SHOWN:
        console.print(Text(f"  and {len(items) - SHOWN} more"))
