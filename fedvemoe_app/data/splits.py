"""Dividing a task's instances into train, probe, validation and test, by hash of the question.

The hash is of the input text, never of a counter: the split of an instance does not depend on
its position, on other instances or on the run's seed, and identical inputs never stand on both
sides. Splits that the source gives are kept; a missing validation or test split is carved out of
train; the probe set (on which responsibilities are inferred) always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from fedvemoe_app.data.task import SPLITS, Instance, Split

Parts = dict[Split, list[Instance]]
NEEDED: tuple[Split, ...] = ("train", "test", "probe")


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares in [0, 1): validation and test of all instances, probe of the rest."""

    validation: float = 0.1
    test: float = 0.1
    probe: float = 0.15


def unit(salt: str, text: str) -> float:
    """Return a number in [0, 1) that depends on ``salt`` and ``text`` alone."""
    digest = hashlib.sha256(f"{salt}\x1f{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def missing_splits(given: frozenset[Split]) -> frozenset[Split]:
    """Return the splits to carve: where the source gives no train split, all instances are."""
    held_out: frozenset[Split] = frozenset({"validation", "test"})
    return held_out - given if "train" in given else held_out


def place(given: Split, question: str, missing: frozenset[Split], fractions: Fractions) -> Split:
    """Return the split of one instance that the source gives as ``given``."""
    if given != "train" and given not in missing:
        return given
    position = unit("split", question)
    if position < fractions.test:
        carved: Split = "test"
    elif position < fractions.test + fractions.validation:
        carved = "validation"
    else:
        carved = "train"
    if carved in missing:
        return carved
    return "probe" if unit("probe", question) < fractions.probe else "train"


def divide(
    instances: Iterable[tuple[Split, Instance]], missing: frozenset[Split], fractions: Fractions
) -> Parts:
    """Place every instance. Returns the four parts."""
    parts: Parts = {split: [] for split in SPLITS}
    for given, instance in instances:
        parts[place(given, instance.input, missing, fractions)].append(instance)
    return parts


def refill(parts: Parts, missing: frozenset[Split]) -> None:
    """Give a needed part that a small task left empty one question of a part that can spare it.

    Only train, probe and carved parts give: a test set that the source states stays whole.
    """
    donors = [split for split in SPLITS if split in {"train", "probe", *missing}]
    for needed in NEEDED:
        giving = [split for split in donors if _can_spare(parts, split)]
        if not parts[needed] and giving:
            donor = giving[0]
            question = min((i.input for i in parts[donor]), key=_order)
            parts[needed] = [i for i in parts[donor] if i.input == question]
            parts[donor] = [i for i in parts[donor] if i.input != question]


def _can_spare(parts: Parts, split: Split) -> bool:
    questions = len({instance.input for instance in parts[split]})
    return questions > (1 if split in NEEDED else 0)


def smallest(parts: Parts, limit: int) -> Parts:
    """Keep ``limit`` instances of each part: those of smallest hash, whatever their order."""
    return {
        split: sorted(part, key=lambda i: (_order(i.input), i.id))[:limit]
        for split, part in parts.items()
    }


def _order(question: str) -> float:
    return unit("order", question)
