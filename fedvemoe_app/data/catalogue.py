"""The catalogue: what is known of each task without holding its instances, and fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from fedvemoe_app.data.reading.records import Heading, Row
from fedvemoe_app.data.task import Instance, Split, Task


@dataclass(frozen=True, slots=True)
class TaskCard:
    """What the catalogue says of a task. Lengths are means in characters, of first answers."""

    name: str
    definition: str
    categories: tuple[str, ...]
    instances: int
    input_chars: float
    output_chars: float
    domain: str = ""


@dataclass(slots=True)
class Tally:
    """Counts of one task in a pass that keeps no instances.

    Rows that repeat the id and input of the row before are references of one instance.
    """

    heading: Heading
    where: str
    given: set[Split] = field(default_factory=set)
    count: int = 0
    input_chars: int = 0
    output_chars: int = 0
    latest: tuple[str, str] = ("", "")

    def add(self, row: Row) -> None:
        """Count one row."""
        self.given.add(row.heading.split or "train")
        if self.count and (row.id, row.input) == self.latest:
            return
        self.latest = (row.id, row.input)
        self.count += 1
        self.input_chars += len(row.input)
        self.output_chars += len(row.outputs[0])

    def card(self) -> TaskCard:
        """Return the catalogue's card."""
        return TaskCard(
            self.heading.task,
            self.heading.definition,
            self.heading.categories,
            self.count,
            self.input_chars / self.count,
            self.output_chars / self.count,
        )


def card_of(
    name: str,
    definition: str,
    categories: tuple[str, ...],
    instances: Iterable[Instance],
    domain: str = "",
) -> TaskCard:
    """Return the card of a task whose instances are at hand."""
    lengths = [(len(i.input), len(i.outputs[0])) for i in instances]
    inputs, outputs = (sum(column) / len(lengths) for column in zip(*lengths, strict=True))
    return TaskCard(name, definition, categories, len(lengths), inputs, outputs, domain)


def fingerprint_of_tasks(tasks: Iterable[Task]) -> str:
    """Return the sha256 of the tasks with all instances and splits, whatever their order."""
    digest = hashlib.sha256()
    for task in sorted(tasks, key=lambda task: task.name):
        _feed(digest, [task.name, task.definition, list(task.categories)])
        for split, part in sorted(task.splits.items()):
            for instance in sorted(part, key=lambda i: i.id):
                _feed(digest, [split, instance.id, instance.input, list(instance.outputs)])
    return digest.hexdigest()


def fingerprint_of_cards(cards: Iterable[TaskCard]) -> str:
    """Return the sha256 of the catalogue, whatever its order."""
    digest = hashlib.sha256()
    for card in sorted(cards, key=lambda card: card.name):
        _feed(digest, asdict(card))
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, value: object) -> None:
    digest.update(json.dumps(value, sort_keys=True).encode())
