"""The life of expert slots, as a journal tells it: when each lived, and what happened to it.

A slot lives in the rounds in which the bank's prior gives it weight. Events name births, trials and
their outcome, prunes and merges; kinds that this module does not know are kept under their name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.rows import EventRow, RoundRow

SILOS_MISSING = ("dropout", "void", "leave", "bad-report")
SILOS_JOINED = ("join",)
ABOUT_SILOS = (*SILOS_MISSING, *SILOS_JOINED)
"""Events about silos and rounds, not about experts."""


@dataclass(frozen=True, slots=True)
class Life:
    """One stretch of rounds, both ends included, in which a slot was alive."""

    slot: int
    first: int
    last: int


def shares(rows: Sequence[RoundRow]) -> NDArray[np.float64]:
    """Return mass divided by its sum, [rounds, K_max]; slots not there yet have none."""
    table = _table(rows, "mass")
    divided: NDArray[np.float64] = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12)
    return divided


def lives(run: Run) -> list[Life]:
    """Return when each slot was alive, by slot and then by round; a reborn slot has two lives."""
    rows = [row for row in run.rounds if row.get("prior") or row.get("mass")]
    numbers = [row["round"] for row in rows]
    alive = _alive(rows)
    found = []
    for slot in range(alive.shape[1]):
        steps = np.diff(np.concatenate([[False], alive[:, slot], [False]]).astype(int))
        starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        found += [
            Life(slot, numbers[start], numbers[end - 1])
            for start, end in zip(starts, ends, strict=True)
        ]
    return found


def happenings(run: Run) -> list[EventRow]:
    """Return the events that concern expert slots, in order."""
    about_experts = [row for row in run.events if row["event"] not in ABOUT_SILOS]
    return sorted(about_experts, key=lambda row: row["round"])


def rounds_with(run: Run, kinds: Collection[str]) -> list[int]:
    """Return the rounds in which an event of these kinds happened, in order."""
    return sorted({row["round"] for row in run.events if row["event"] in kinds})


def _alive(rows: Sequence[RoundRow]) -> NDArray[np.bool_]:
    """Return which slots live in which row, [rounds, K_max]: by prior, else by mass."""
    prior, mass = _table(rows, "prior"), _table(rows, "mass")
    width = max(prior.shape[1], mass.shape[1])
    has_prior = np.array([bool(row.get("prior")) for row in rows], dtype=bool)[:, None]
    alive: NDArray[np.bool_] = np.where(has_prior, _wide(prior, width), _wide(mass, width)) > 0
    return alive


def _table(rows: Sequence[Any], field: str) -> NDArray[np.float64]:
    """Return a field of one number per slot as a table [rounds, K_max]; unknown is zero."""
    values = [row.get(field) or [] for row in rows]
    table = np.zeros((len(rows), max(map(len, values), default=0)))
    for line, value in zip(table, values, strict=True):
        line[: len(value)] = np.nan_to_num(np.array(value, dtype=float))
    return table


def _wide(table: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))
