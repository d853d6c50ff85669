"""The task bank: a catalogue of what a source holds, and the tasks themselves on demand.

Without streaming the source is read once and kept. With streaming a first pass keeps only the
catalogue, and ``load`` makes a second pass that keeps only the instances of the tasks asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.data.reading.passes import Contents, Loaded, Rules, hold, hold_tasks, survey
from fedvemoe_app.data.reading.records import Problem, suggestion
from fedvemoe_app.data.reading.sources import reader_of
from fedvemoe_app.data.splits import Fractions
from fedvemoe_app.data.task import Task
from fedvemoe_app.errors import DataError, SettingError

BUILTIN = "builtin:tasks"


@dataclass(frozen=True)
class Bank:
    """A source of tasks.

    ``fingerprint`` is the sha256 of all tasks, the same in any order and layout; of the
    catalogue alone when streaming.
    """

    source: str
    catalogue: tuple[TaskCard, ...]  # in order of name
    problems: tuple[Problem, ...]
    fingerprint: str
    streaming: bool
    reading: Callable[[tuple[str, ...]], Loaded] = field(repr=False, compare=False)

    def read(self, names: Sequence[str]) -> Loaded:
        """Return the named tasks in this order, and problems that only reading them shows.

        Raises
        ------
        DataError
            If a name is unknown, or a task has too few instances to be divided.
        """
        known = {card.name for card in self.catalogue}
        for name in names:
            if name not in known:
                raise DataError(f"{self.source}: no usable task '{name}'{suggestion(name, known)}")
        return self.reading(tuple(names))

    def load(self, names: Sequence[str]) -> tuple[Task, ...]:
        """Return the tasks of :meth:`read`."""
        return self.read(names).tasks


def open_bank(
    source: str,
    *,
    streaming: bool = False,
    max_instances: int | None = None,
    probe_fraction: float = 0.15,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    wanted: Collection[str] | None = None,
) -> Bank:
    """Open ``builtin:tasks``, a folder or file of tasks, or a dataset of the hub.

    ``max_instances`` bounds each split of each task; ``wanted`` limits the bank to those tasks.
    ``seed`` generates the builtin tasks; the splits of other sources do not depend on it, so
    that runs of different seeds are scored on the same questions.

    Raises
    ------
    DataError
        If the source is missing, cannot be read, or holds no usable task.
    SettingError
        If a fraction or ``max_instances`` is out of range.
    """
    rules = Rules(Fractions(validation_fraction, test_fraction, probe_fraction), max_instances)
    _check(rules)
    names = None if wanted is None else frozenset(wanted)
    contents = _contents(source, streaming, rules, seed, names)
    if not contents.cards:
        raise DataError(_nothing_usable(source, contents.problems))
    bank = Bank(
        source=source,
        catalogue=contents.cards,
        problems=contents.problems,
        fingerprint=contents.fingerprint,
        streaming=streaming,
        reading=contents.reading,
    )
    if names is not None and len(contents.cards) < len(names):
        bank.read(sorted(names))  # names the task that is not there
    return bank


def _contents(
    source: str, streaming: bool, rules: Rules, seed: int, wanted: frozenset[str] | None
) -> Contents:
    if source.startswith("builtin:"):
        return _builtin(source, rules, seed, wanted)
    reader = reader_of(source, streaming)
    return survey(reader, rules, wanted) if streaming else hold(reader, rules, wanted)


def _builtin(source: str, rules: Rules, seed: int, wanted: frozenset[str] | None) -> Contents:
    if source != BUILTIN:
        raise DataError(f"dataset-name = {source} is unknown; the embedded bank is {BUILTIN}")
    from fedvemoe_app.data.builtin import tasks  # generated, not read: only when asked for

    chosen = [task for task in tasks(seed) if wanted is None or task.name in wanted]
    return hold_tasks(chosen, rules.limit)


def _check(rules: Rules) -> None:
    fractions = rules.fractions
    for name in ("validation", "test", "probe"):
        value = getattr(fractions, name)
        if not 0 <= value < 1:
            raise SettingError(f"{name}-fraction = {value} must be at least 0 and below 1")
    if fractions.validation + fractions.test >= 1:
        raise SettingError(
            f"validation-fraction = {fractions.validation} and test-fraction = {fractions.test} "
            "leave nothing to train on; make their sum less than 1"
        )
    if rules.limit is not None and rules.limit < 1:
        raise SettingError(f"max-instances = {rules.limit} must be at least 1")


def _nothing_usable(source: str, problems: Sequence[Problem]) -> str:
    if not problems:
        return f"{source}: holds no task that was asked for; check the names"
    shown = "\n  ".join(str(problem) for problem in problems[:5])
    return f"{source}: holds no usable task; the first problems are\n  {shown}"
