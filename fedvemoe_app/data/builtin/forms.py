"""Ways to write a date and an amount: every list holds (input, answer) pairs.

The inputs do not depend on the style, so houses that disagree answer the same questions.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

from fedvemoe_app.data.builtin.words import DAYS, MONTHS, NUMBERS, UNITS

Pairs = list[tuple[str, str]]
MonthForm = Literal["full", "short", "number"]


def dates(*, day_first: bool, month: MonthForm) -> Pairs:
    """Return every date of the year in one order and one form of the month."""
    pairs = []
    for index, (full, short) in enumerate(MONTHS):
        written = {"full": full, "short": short, "number": str(index + 1)}[month]
        for day in DAYS:
            answer = f"{day} {written}" if day_first else f"{written} {day}"
            pairs.append((f"Date: {full}, day {day}", answer))
    return pairs


def amounts(*, digits: bool, short: bool) -> Pairs:
    """Return every number with every unit, either of them in one of two forms."""
    pairs = []
    for (index, word), (unit, symbol) in product(enumerate(NUMBERS), UNITS.items()):
        number = str(index + 1) if digits else word
        pairs.append((f"Amount: {word} {unit}", f"{number} {symbol if short else unit}"))
    return pairs
