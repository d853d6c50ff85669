from __future__ import annotations

import math

import pytest
import torch

from fedvemoe_app.evaluation.histogram import (
    BUCKETS,
    TRANSFER_BUCKETS,
    edges,
    one_hot,
    transfer_edges,
    transfer_one_hot,
    transfer_worst,
    worst,
)


@pytest.mark.parametrize("ppl", [1.0, 1.16, 1.17, 7.3, 400.0, 8000.0])
def test_a_perplexity_lies_within_its_bucket(ppl: float) -> None:
    (index,) = torch.nonzero(one_hot(ppl)).flatten().tolist()
    assert edges()[index] <= ppl < edges()[index + 1]
    assert worst(one_hot(ppl)) == edges()[index + 1]


@pytest.mark.parametrize("harm", [-0.99, -0.05, -1e-9, 0.0, 5e-324, 1e-9, 0.05, 0.051, 0.99, 1.0])
def test_negative_transfer_lies_within_its_bucket(harm: float) -> None:
    (index,) = torch.nonzero(transfer_one_hot(harm)).flatten().tolist()
    assert transfer_edges()[index] < harm <= transfer_edges()[index + 1]
    assert (index >= TRANSFER_BUCKETS // 2) == (harm > 0)
    assert transfer_worst(transfer_one_hot(harm)) == transfer_edges()[index + 1]


def test_edges_of_negative_transfer_are_symmetric_about_zero() -> None:
    ends = transfer_edges()
    assert len(ends) == TRANSFER_BUCKETS + 1
    assert ends[TRANSFER_BUCKETS // 2] == 0.0
    assert ends == [-edge for edge in reversed(ends)]


@pytest.mark.parametrize(("value", "index"), [(-50.0, 0), (50.0, TRANSFER_BUCKETS - 1)])
def test_the_ends_are_open(value: float, index: int) -> None:
    assert transfer_one_hot(value)[index] == 1.0
    assert one_hot(math.inf)[BUCKETS - 1] == 1.0


def test_what_is_unknown_is_in_no_bucket() -> None:
    for buckets in (one_hot(None), transfer_one_hot(None)):
        assert not buckets.any()
    assert worst(one_hot(None)) is None
    assert transfer_worst(transfer_one_hot(None)) is None
