"""What a silo's evaluation adds to the sums: scores by row, and the buckets that it lies in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedvemoe_app.data.tasklist import OTHERS
from fedvemoe_app.evaluation.histogram import (
    BUCKETS,
    TRANSFER_BUCKETS,
    one_hot,
    transfer_one_hot,
)
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.transfer import SUMS, transfer_sums


def evaluation_sums(
    scores: Mapping[str, Score], rows: Mapping[str, int], harm: float | None
) -> dict[str, Tensor]:
    """Return one silo's sums, float64: its ``scores`` by task in their ``rows``, and its buckets.

    ``harm`` is its negative transfer, where known. Scores of tasks without a row count in that of
    all others, where there is one.
    """
    by_row = [Score()] * _count(rows)
    for task, score in scores.items():
        number = rows.get(task, rows.get(OTHERS))
        if number is not None:
            by_row[number] += score
    values = [row.to_array().tolist() for row in by_row]
    return {
        "scores": torch.tensor(values, dtype=torch.float64),
        "ppl_histogram": one_hot(pool(scores.values()).ppl),
        "transfer": transfer_sums(harm),
        "transfer_histogram": transfer_one_hot(harm),
    }


def evaluation_shapes(rows: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of ``evaluation_sums``."""
    return {
        "scores": (_count(rows), len(Score().to_array())),
        "ppl_histogram": (BUCKETS,),
        "transfer": (SUMS,),
        "transfer_histogram": (TRANSFER_BUCKETS,),
    }


def _count(rows: Mapping[str, int]) -> int:
    return 1 + max(rows.values(), default=-1)
