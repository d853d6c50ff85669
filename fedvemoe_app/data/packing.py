"""Several sequences in one row: which share it, and when that is less work than to pad them.

Whoever packs relies on a model that keeps the sequences of a row apart (``model.packing``). An
attention that must look where each sequence begins reads the whole square of a row, where a
plain causal one reads half of it: rows must get fewer by more than that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

Rows = list[list[int]]
"""Of each row the numbers of its sequences, in the order they lie in."""
Arrange = Callable[[Sequence[int]], Rows]
"""Shares the sequences of a batch out among rows, by their lengths."""

WORTH = 0.9
"""Share of the padded work that packing must stay below: the model of cost is not that exact."""


def apart(lengths: Sequence[int]) -> Rows:
    """Give every sequence a row of its own, the longest first."""
    return [[number] for number in _longest_first(lengths)]


def passes(widths: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut rows of these ``widths`` into passes of at most ``budget`` padded tokens.

    A row that is wider goes alone. With the widest first, a pass holds rows of similar width.
    """
    first, widest = 0, 0
    for number, width in enumerate(widths):
        widest = max(widest, width)
        if number > first and widest * (number + 1 - first) > budget:
            yield slice(first, number)
            first, widest = number, width
    if widths:
        yield slice(first, len(widths))


@dataclass(frozen=True, slots=True)
class Packing:
    """Puts sequences into common rows where that is less work.

    Parameters
    ----------
    attention
        What it costs a token to attend to one other token, where 1 is all else that the model
        does with a token.
    longest
        Most tokens of a row; a longer sequence goes alone. The longest sequence that must go
        through in any case: then no row needs more memory than that one.
    budget
        Most padded tokens of a pass (see ``passes``).
    """

    attention: float
    longest: int
    budget: int

    def __call__(self, lengths: Sequence[int]) -> Rows:
        """Return the cheapest rows, the longest first; each sequence alone if packing saves little.

        The same lengths give the same rows, whatever else there is.
        """
        alone = apart(lengths)
        best, least = alone, WORTH * self._cost(alone, lengths)
        for number in range(max(1, sum(lengths) // self.longest), len(lengths)):
            rows = _even(lengths, number)
            cost = self._cost(rows, lengths)
            if cost < least and self._fits(rows, lengths):
                best, least = rows, cost
        return best

    def _fits(self, rows: Rows, lengths: Sequence[int]) -> bool:
        return all(len(row) == 1 or _width(row, lengths) <= self.longest for row in rows)

    def _cost(self, rows: Rows, lengths: Sequence[int]) -> float:
        """Return the work of all passes, in tokens that attend to nothing."""
        widths = [_width(row, lengths) for row in rows]
        return sum(
            self._pass_cost(rows[part], max(widths[part])) for part in passes(widths, self.budget)
        )

    def _pass_cost(self, rows: Rows, width: int) -> float:
        square = 1.0 if any(len(row) > 1 for row in rows) else 0.5
        return len(rows) * width * (1 + self.attention * square * width)


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))


def _width(row: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[number] for number in row)


def _even(lengths: Sequence[int], count: int) -> Rows:
    """Fill ``count`` rows evenly: the longest first, each into the row that holds least."""
    rows: Rows = [[] for _ in range(count)]
    filled = [(0, row) for row in range(count)]
    heapify(filled)
    for number in _longest_first(lengths):
        width, row = filled[0]
        rows[row].append(number)
        heapreplace(filled, (width + lengths[number], row))
    return sorted(rows, key=lambda row: -_width(row, lengths))
