"""Who holds what: the bank and the assignment that a run's settings imply, read once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.data.assign import Assignment, assign, shard
from fedvemoe_app.data.assignment.keywords import load_keywords
from fedvemoe_app.data.bank import Bank, open_bank
from fedvemoe_app.data.task import Task


@lru_cache(maxsize=2)
def bank_of(settings: DataSettings, seed: int) -> Bank:
    """Open the task bank; raises DataError."""
    return open_bank(
        settings.dataset_name,
        streaming=settings.streaming,
        max_instances=settings.max_instances or None,
        probe_fraction=settings.probe_fraction,
        seed=seed,
    )


@lru_cache(maxsize=2)
def assignment_of(settings: DataSettings, seed: int, silos: int) -> Assignment:
    """Give the bank's tasks to ``silos`` silos; raises DataError or SettingError."""
    return assign(
        bank_of(settings, seed).catalogue,
        mode=settings.client_task_mode,
        silos=silos,
        categories=settings.categories,
        tasks_per_category=settings.tasks_per_category,
        keywords=load_keywords(Path(settings.keyword_file) if settings.keyword_file else None),
        map_file=Path(settings.assignment_file) if settings.assignment_file else None,
        seed=seed,
    )


@lru_cache(maxsize=2)
def all_tasks_of(settings: DataSettings, seed: int) -> tuple[Task, ...]:
    """Return every task of the bank, whole, in order of name: a deployed silo's own bank."""
    bank = bank_of(settings, seed)
    return bank.load([card.name for card in bank.catalogue])


@lru_cache(maxsize=32)
def tasks_of(settings: DataSettings, seed: int, silos: int, index: int) -> tuple[Task, ...]:
    """Return the tasks of silo ``index``, each cut to the part that is this silo's.

    Kept, for a streamed bank is read anew by every call, and each message asks for the tasks.
    """
    shares = assignment_of(settings, seed, silos).silos[index].shares
    tasks = bank_of(settings, seed).load([share.task for share in shares])
    return tuple(
        shard(task, share.part, share.parts) for task, share in zip(tasks, shares, strict=True)
    )
