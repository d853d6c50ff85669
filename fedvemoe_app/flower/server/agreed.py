"""What the server knows before it asks: who the silos are, and which tasks have a row of scores.

In a simulation it works out who holds which task, from the bank itself. In a deployment, where the
setting ``roster`` names the silos, it holds no data: it reads no bank and no assignment, and knows
tasks by the names on a list. Silos fold the scores of all others into one row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import Silo
from fedvemoe_app.data.holdings import assignment_of, bank_of
from fedvemoe_app.data.tasklist import OTHERS, read_task_list
from fedvemoe_app.evaluation.task_rows import TaskRows, task_rows
from fedvemoe_app.secagg.roster import read_roster


@dataclass(frozen=True, slots=True)
class Agreed:
    """Silos by name, and the tasks' categories in the order in which scores are summed.

    ``plan`` says who holds what, where the server knows it. ``bank`` is the fingerprint of the
    tasks, None where the server has none. ``notes`` say where a silo got fewer tasks than asked
    for.
    """

    silos: tuple[str, ...]
    categories: Mapping[str, str]
    plan: tuple[Silo, ...] = ()
    bank: str | None = None
    notes: tuple[str, ...] = ()

    def rows(self, *, least: int, present: Collection[str]) -> TaskRows:
        """Return the rows of scores per task; tasks of too few silos are folded where known."""
        if self.plan:
            return task_rows(self.plan, least=least, present=present)
        tasks = tuple(self.categories)
        numbers = {task: number for number, task in enumerate(tasks)}
        return TaskRows(tasks, tuple(self.categories.values()), numbers)


def agreed(config: RunConfig, silos: int) -> Agreed:
    """Return what is known of a run of ``silos`` silos; DataError or SettingError."""
    return _of_roster(config) if config.output.roster else _of_assignment(config, silos)


def _of_roster(config: RunConfig) -> Agreed:
    members = read_roster(config.output.roster, config.output.consortium_key).members
    path = config.data.tasks_file
    listed = read_task_list(path) if path else {}
    return Agreed(tuple(sorted(members)), {**listed, OTHERS: ""})


def _of_assignment(config: RunConfig, silos: int) -> Agreed:
    data, seed = config.data, config.output.seed
    assignment = assignment_of(data, seed, silos)
    return Agreed(
        silos=tuple(silo.name for silo in assignment.silos),
        plan=assignment.silos,
        categories={s.task: silo.category for silo in assignment.silos for s in silo.shares},
        bank=bank_of(data, seed).fingerprint,
        notes=assignment.notes,
    )
