"""Silos counted in buckets: what aggregate reporting knows of them, without a name.

A row of ``rounds.jsonl`` may hold ``ppl_histogram`` (buckets of log perplexity from 0 up) and
``transfer_histogram`` (buckets of log-ppl differences around 0); see ``evaluation.histogram``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.report.rows import RoundRow

Field = Literal["ppl_histogram", "transfer_histogram"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Silos of one round by bucket: ``counts`` [B] between ``edges`` [B + 1], in nats per token."""

    round: int
    counts: NDArray[np.float64]
    edges: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bucket [B]."""
        middle: NDArray[np.float64] = (self.edges[:-1] + self.edges[1:]) / 2
        return middle

    def quantile(self, share: float) -> float:
        """Return the middle of the bucket below whose end lie ``share`` of the silos."""
        place = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum() - 1e-9)
        return float(self.centres[min(int(place), len(self.counts) - 1)])

    def trimmed(self) -> Counts:
        """Return the buckets from the first that holds a silo to the last."""
        held = np.flatnonzero(self.counts)
        first, end = int(held[0]), int(held[-1]) + 1
        return Counts(self.round, self.counts[first:end], self.edges[first : end + 1])


def histograms(rows: Sequence[RoundRow], field: Field) -> list[Counts]:
    """Return the histogram of each round that has one with a silo in it."""
    found = []
    for row in rows:
        values: Any = row.get(field)
        counts = np.rint(np.array(values or [], dtype=float))
        if counts.sum() > 0:
            found.append(Counts(row["round"], counts, _edges(field, len(counts))))
    return found


def _edges(field: Field, buckets: int) -> NDArray[np.float64]:
    from fedvemoe_app.evaluation import histogram  # loads torch: only where a row needs it

    ends = np.arange(buckets + 1, dtype=np.float64)
    if field == "ppl_histogram":
        return ends * histogram.WIDTH
    width: float = getattr(histogram, "TRANSFER_WIDTH", histogram.WIDTH)
    return (ends - buckets / 2) * width
