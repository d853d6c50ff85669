"""A task under construction: rows are merged into instances, then divided into splits.

Rows with the same id and the same input are one question with several references; the same id
with another input is a duplicate id, and the later row is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fedvemoe_app.data.reading.records import Heading, Problem, Row
from fedvemoe_app.data.splits import (
    NEEDED,
    Fractions,
    Parts,
    divide,
    missing_splits,
    refill,
    smallest,
)
from fedvemoe_app.data.task import SPLITS, Instance, Split, Task
from fedvemoe_app.errors import DataError

HELD_OUT: tuple[Split, ...] = ("train", "validation", "test")
# A part that was cut early can still give one question to each part that is empty.
SPARE = len(NEEDED)


@dataclass(slots=True)
class Draft:
    """The instances of one task so far. ``given`` are the splits that its source states."""

    heading: Heading
    where: str
    given: set[Split] = field(default_factory=set)
    held: dict[str, tuple[Split, Instance]] = field(default_factory=dict)

    def add(self, row: Row) -> tuple[Problem, ...]:
        """Take a row in; return a problem where it contradicts an earlier one."""
        split = row.heading.split or "train"
        self.given.add(split)
        if row.id not in self.held:
            self.held[row.id] = (split, Instance(row.id, row.input, row.outputs))
            return ()
        return self._merge(row, split)

    def _merge(self, row: Row, split: Split) -> tuple[Problem, ...]:
        known_split, known = self.held[row.id]
        if row.input != known.input:
            reason = f"duplicate id '{row.id}' in task {self.heading.task} with a different input"
            return (Problem(row.where, f"{reason}; skipped, give it an id of its own"),)
        outputs = tuple(dict.fromkeys((*known.outputs, *row.outputs)))
        stays = max(split, known_split, key=HELD_OUT.index)
        self.held[row.id] = (stays, Instance(row.id, row.input, outputs))
        if split == known_split:
            return ()
        reason = f"id '{row.id}' stands in {split} and in {known_split}; kept in {stays} only"
        return (Problem(row.where, reason),)

    def parts(self, fractions: Fractions) -> Parts:
        """Return the instances divided into splits."""
        return divide(self.held.values(), missing_splits(frozenset(self.given)), fractions)

    def trim(self, fractions: Fractions, limit: int) -> None:
        """Forget instances that :meth:`finish` with this limit could not keep.

        Only for a draft that knows all splits of its source (``given``) beforehand.
        """
        if len(self.held) <= 2 * len(SPLITS) * (limit + SPARE):
            return
        kept = smallest(self.parts(fractions), limit + SPARE)
        ids = {instance.id for part in kept.values() for instance in part}
        self.held = {name: entry for name, entry in self.held.items() if name in ids}

    def finish(self, fractions: Fractions, limit: int | None) -> Task:
        """Return the task, at most ``limit`` instances per split, in order of id.

        Raises
        ------
        DataError
            If train, probe or test would be left empty.
        """
        parts = self.parts(fractions)
        refill(parts, missing_splits(frozenset(self.given)))
        if not all(parts[split] for split in NEEDED):
            inputs = {instance.input for instance in self.instances()}
            raise DataError(too_small(self.heading.task, len(self.held), len(inputs)))
        kept = parts if limit is None else smallest(parts, limit)
        splits = {split: tuple(sorted(kept[split], key=lambda i: i.id)) for split in SPLITS}
        return Task(self.heading.task, self.heading.definition, self.heading.categories, splits)

    def instances(self) -> Iterator[Instance]:
        """Yield every instance held."""
        return (instance for _, instance in self.held.values())


def too_small(task: str, usable: int, different: int | None = None) -> str:
    """Return why a task cannot be divided: ``different`` of its inputs are distinct."""
    inputs = "" if different is None else f" with {different} different inputs"
    return (
        f"task {task} has {usable} usable instances{inputs}, needs at least {len(NEEDED)} with "
        "different inputs (one each for train, probe and test, the splits given by the source "
        "left as they are); add instances or leave the task out"
    )
