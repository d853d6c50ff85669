"""Perplexities of silos as a sum: one silo, one bucket; the worst is known, not its name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BUCKETS = 60
WIDTH = 0.15
"""Nats per token: a bucket ends 16 % above where it begins; the last one is open."""


def one_hot(ppl: float | None) -> Tensor:
    """Return a silo's bucket [60] float64; all zero where it has no perplexity."""
    buckets = torch.zeros(BUCKETS, dtype=torch.float64)
    if ppl is not None and ppl >= 1.0:
        buckets[min(BUCKETS - 1, int(math.log(ppl) / WIDTH))] = 1.0
    return buckets


def worst(buckets: Tensor) -> float | None:
    """Return the upper end of the highest bucket that holds a silo; None where none does."""
    held = torch.nonzero(buckets.round() > 0).flatten().tolist()
    return math.exp(WIDTH * (held[-1] + 1)) if held else None
