"""Silos' figures as sums of one-hot buckets: how many lie where is known, not who lies where.

Perplexities have logarithmic buckets from 1 upwards. Negative transfer has as many buckets below 0
as above, and 0 is an edge: how many silos are harmed is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BUCKETS = 60
WIDTH = 0.15
"""Nats per token: a bucket ends 16 % above where it begins; the last one is open."""

TRANSFER_BUCKETS = 40
TRANSFER_WIDTH = 0.05
"""Nats per token: 20 buckets on either side of 0; the first and the last are open."""


def one_hot(ppl: float | None) -> Tensor:
    """Return a silo's bucket [60] float64; all zero where it has no perplexity."""
    if ppl is None or ppl < 1.0:
        return _bucket(None, BUCKETS)
    return _bucket(int(min(math.log(ppl) / WIDTH, BUCKETS - 1)), BUCKETS)


def edges() -> list[float]:
    """Return the 61 edges of the perplexities' buckets; a bucket holds its lower edge."""
    return [math.exp(WIDTH * edge) for edge in range(BUCKETS + 1)]


def worst(buckets: Tensor) -> float | None:
    """Return the upper end of the highest bucket that holds a silo; None where none does."""
    return _upper_end(buckets, edges())


def transfer_one_hot(harm: float | None) -> Tensor:
    """Return the bucket [40] float64 of a silo's negative transfer; all zero where unknown."""
    if harm is None:
        return _bucket(None, TRANSFER_BUCKETS)
    half = TRANSFER_BUCKETS // 2
    steps = max(-half + 1.0, min(harm / TRANSFER_WIDTH, half))
    return _bucket(math.ceil(steps) - 1 + half, TRANSFER_BUCKETS)


def transfer_edges() -> list[float]:
    """Return the 41 edges of negative transfer's buckets; a bucket holds its *upper* edge.

    So no harm at all is not counted as harm.
    """
    half = TRANSFER_BUCKETS // 2
    return [TRANSFER_WIDTH * edge for edge in range(-half, half + 1)]


def transfer_worst(buckets: Tensor) -> float | None:
    """Return the upper end of the highest bucket that holds a silo; None where none does."""
    return _upper_end(buckets, transfer_edges())


def _bucket(index: int | None, buckets: int) -> Tensor:
    found = torch.zeros(buckets, dtype=torch.float64)
    if index is not None:
        found[index] = 1.0
    return found


def _upper_end(buckets: Tensor, edges: list[float]) -> float | None:
    held = torch.nonzero(buckets.round() > 0).flatten().tolist()
    return edges[held[-1] + 1] if held else None
