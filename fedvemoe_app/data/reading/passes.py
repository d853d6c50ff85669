"""The two ways through a source: hold everything after one pass, or survey it and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from fedvemoe_app.data.catalogue import (
    Tally,
    TaskCard,
    card_of,
    fingerprint_of_cards,
    fingerprint_of_tasks,
)
from fedvemoe_app.data.reading.drafts import Draft, too_small
from fedvemoe_app.data.reading.records import Problem, Reader
from fedvemoe_app.data.splits import NEEDED, Fractions, smallest
from fedvemoe_app.data.task import SPLITS, Instance, Task
from fedvemoe_app.errors import DataError


@dataclass(frozen=True, slots=True)
class Loaded:
    """Tasks in the order asked for, and the problems met while reading them."""

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """What a pass found: cards in order of name, problems, and how to get at the tasks."""

    cards: tuple[TaskCard, ...]
    problems: tuple[Problem, ...]
    fingerprint: str
    reading: Callable[[tuple[str, ...]], Loaded]


@dataclass(frozen=True, slots=True)
class Rules:
    """How tasks are divided, and how many instances each split may keep (None: all)."""

    fractions: Fractions
    limit: int | None


def hold_tasks(tasks: Iterable[Task], limit: int | None) -> Contents:
    """Return ready-made tasks as contents, each split cut to ``limit``."""
    ordered = sorted(tasks, key=lambda task: task.name)
    held = {task.name: _cut(task, limit) for task in ordered}
    cards = tuple(
        card_of(task.name, task.definition, task.categories, _instances(task), task.domain)
        for task in ordered
    )
    return Contents(cards, (), fingerprint_of_tasks(held.values()), partial(_pick, held))


def hold(reader: Reader, rules: Rules, wanted: frozenset[str] | None) -> Contents:
    """Read everything once and keep it; tasks too small to divide become problems."""
    drafts: dict[str, Draft] = {}
    problems: list[Problem] = []
    for entry in reader(wanted):
        if isinstance(entry, Problem):
            problems.append(entry)
        else:
            draft = drafts.setdefault(entry.heading.task, Draft(entry.heading, entry.where))
            problems.extend(draft.add(entry))
    held: dict[str, Task] = {}
    cards: list[TaskCard] = []
    for name, draft in sorted(drafts.items()):
        problems.extend(_note_on_splits(draft))
        try:
            held[name] = draft.finish(rules.fractions, rules.limit)
        except DataError as error:
            problems.append(Problem(draft.where, str(error)))
        else:
            heading = draft.heading
            cards.append(card_of(name, heading.definition, heading.categories, draft.instances()))
    fingerprint = fingerprint_of_tasks(held.values())
    return Contents(tuple(cards), tuple(problems), fingerprint, partial(_pick, held))


def survey(reader: Reader, rules: Rules, wanted: frozenset[str] | None) -> Contents:
    """Read everything once and keep the catalogue alone; ``reading`` makes a second pass."""
    tallies: dict[str, Tally] = {}
    problems: list[Problem] = []
    for entry in reader(wanted):
        if isinstance(entry, Problem):
            problems.append(entry)
        else:
            name = entry.heading.task
            tallies.setdefault(name, Tally(entry.heading, entry.where)).add(entry)
    cards: list[TaskCard] = []
    for _, tally in sorted(tallies.items()):
        problems.extend(_note_on_splits(tally))
        if tally.count < len(NEEDED):
            problems.append(Problem(tally.where, too_small(tally.heading.task, tally.count)))
        else:
            cards.append(tally.card())
    reading = partial(_second_pass, reader, rules, tallies)
    return Contents(tuple(cards), tuple(problems), fingerprint_of_cards(cards), reading)


def _second_pass(
    reader: Reader, rules: Rules, tallies: Mapping[str, Tally], names: tuple[str, ...]
) -> Loaded:
    drafts = {
        name: Draft(tallies[name].heading, tallies[name].where, set(tallies[name].given))
        for name in names
    }
    problems: list[Problem] = []
    for entry in reader(frozenset(names)):
        if isinstance(entry, Problem):
            continue  # the survey has it
        draft = drafts[entry.heading.task]
        problems.extend(draft.add(entry))
        if rules.limit is not None:
            draft.trim(rules.fractions, rules.limit)
    tasks = tuple(drafts[name].finish(rules.fractions, rules.limit) for name in names)
    return Loaded(tasks, tuple(problems))


def _pick(held: Mapping[str, Task], names: tuple[str, ...]) -> Loaded:
    return Loaded(tuple(held[name] for name in names))


def _cut(task: Task, limit: int | None) -> Task:
    if limit is None:
        return task
    kept = smallest({split: list(task.splits[split]) for split in SPLITS}, limit)
    return replace(task, splits={split: tuple(part) for split, part in kept.items()})


def _instances(task: Task) -> Iterable[Instance]:
    return (instance for split in SPLITS for instance in task.splits[split])


def _note_on_splits(found: Draft | Tally) -> tuple[Problem, ...]:
    if "train" in found.given:
        return ()
    given = ", ".join(sorted(found.given))
    return (
        Problem(
            found.where,
            f"task {found.heading.task} has no train instances, only {given}; all of them were "
            "divided anew by hash",
        ),
    )
