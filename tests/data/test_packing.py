"""Sequences in common rows: nothing is lost, split or put where it costs more."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fedvemoe_app.data.batches import IGNORED, Example, by_length, lay_out, shuffled
from fedvemoe_app.data.packing import Packing, apart, passes
from fedvemoe_app.data.task import Instance


def example(length: int, prompt: int = 1, first: int = 10) -> Example:
    return Example(tuple(range(first, first + length)), prompt, "task", Instance("", "", ("",)))


def drawn(seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, int(rng.integers(2, 300)), int(rng.integers(1, 20))).tolist()


def widths(rows: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[number] for number in row) for row in rows]


@pytest.mark.parametrize("seed", range(40))
def test_every_sequence_is_in_one_row_and_no_shared_row_is_too_long(seed: int) -> None:
    lengths = drawn(seed)
    packing = Packing(attention=0.001 * seed, longest=100, budget=250)
    rows = packing(lengths)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    found = widths(rows, lengths)
    assert all(len(row) == 1 or width <= 100 for row, width in zip(rows, found, strict=True))
    assert found == sorted(found, reverse=True)


def test_a_sequence_longer_than_a_row_may_be_goes_alone() -> None:
    rows = Packing(attention=0.0, longest=50, budget=10_000)([10, 90, 20, 15, 5])
    assert rows[0] == [1]
    assert len(rows) == 2


def test_no_shared_row_is_wider_than_allowed_however_cheap() -> None:
    """Three rows of 100 would be cheapest, and hold no padding."""
    lengths = [90, 51, 50, 50, 49, 10]
    assert widths(Packing(0.0, longest=100, budget=10_000)(lengths), lengths) == [100] * 3
    narrower = widths(Packing(0.0, longest=99, budget=10_000)(lengths), lengths)
    assert max(narrower) <= 99
    assert len(narrower) == 4


def test_short_sequences_share_the_rows_of_long_ones() -> None:
    lengths = [100, 10, 20, 30, 25, 15]
    assert widths(Packing(0.0, longest=100, budget=10_000)(lengths), lengths) == [100, 100]


def test_sequences_of_one_length_stay_apart() -> None:
    lengths = [60] * 8
    assert Packing(attention=0.001, longest=100, budget=10_000)(lengths) == apart(lengths)


def test_dear_attention_keeps_sequences_apart() -> None:
    lengths = [100, 10, 20, 30, 25, 15, 60, 70]
    cheap, dear = (Packing(cost, longest=100, budget=10_000)(lengths) for cost in (0.001, 10.0))
    assert len(cheap) < len(dear) == len(lengths)


def test_passes_that_are_cut_by_length_already_need_no_packing() -> None:
    """Each of these goes through the model alone, without padding, where memory is so small."""
    lengths = [100, 60, 70, 90]
    assert Packing(attention=0.001, longest=200, budget=50)(lengths) == apart(lengths)


def test_the_same_lengths_share_rows_alike_wherever_they_stand() -> None:
    lengths = drawn(5)
    order = np.random.default_rng(0).permutation(len(lengths)).tolist()
    packing = Packing(attention=0.001, longest=300, budget=900)
    shuffled_lengths = [lengths[place] for place in order]
    rows = [packing(some) for some in (lengths, shuffled_lengths)]
    found = [
        sorted(sorted(some[number] for number in row) for row in made)
        for made, some in zip(rows, (lengths, shuffled_lengths), strict=True)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("budget", [1, 20, 45, 1000])
def test_passes_hold_all_rows_in_order_within_the_budget(budget: int) -> None:
    sizes = [20, 18, 18, 7, 5, 3]
    parts = list(passes(sizes, budget))
    assert [size for part in parts for size in sizes[part]] == sizes
    for part in parts:
        rows = sizes[part]
        assert len(rows) == 1 or max(rows) * len(rows) <= budget
    assert list(passes([], budget)) == []


def test_a_batch_knows_where_its_examples_lie() -> None:
    examples = [example(4, prompt=2), example(3, first=50), example(2, first=90), example(6)]
    batch = lay_out(examples, [[3], [1, 2]], pad=0)
    assert batch.rows == (3, 1, 2)
    assert batch.widths == [6, 5]
    assert batch.input_ids[1].tolist() == [50, 51, 52, 90, 91, 0]
    assert batch.labels[1].tolist() == [IGNORED, 51, 52, IGNORED, 91, IGNORED]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 0]]
    assert batch.owners[1, :5].tolist() == [1, 1, 1, 2, 2]
    assert batch.packed
    rest = batch.part(slice(1, 2))
    assert (rest.rows, rest.lengths, rest.input_ids.shape) == ((1, 2), ((3, 2),), (1, 5))
    assert not batch.part(slice(0, 1)).packed
    assert lay_out(examples, [[1, 2], [3]], pad=0).part(slice(1, 2)).rows == (3,)


def test_the_first_token_of_an_example_is_no_target_wherever_it_lies() -> None:
    """An example without a prompt; alone in a row its first token is predicted from nothing."""
    batch = lay_out([example(3), example(3, prompt=0)], [[0, 1]], pad=0)
    assert batch.labels[0, 3] == IGNORED


def test_training_draws_the_same_examples_packed_or_not() -> None:
    examples = [example(length) for length in drawn(3) * 3]
    drawings = [
        shuffled(examples, 6, 0, np.random.default_rng(1), arrange)
        for arrange in (apart, Packing(attention=0.0, longest=300, budget=10_000))
    ]
    pairs = [[next(batches) for batches in drawings] for _ in range(8)]
    assert all(sorted(one.rows) == sorted(other.rows) for one, other in pairs)
    assert any(other.packed for _, other in pairs)
    assert sum(b.input_ids.numel() for _, b in pairs) < sum(b.input_ids.numel() for b, _ in pairs)


@pytest.mark.parametrize("most", [1, 100, 500, 10_000])
def test_evaluation_fills_passes_of_neighbours_in_length(most: int) -> None:
    examples = [example(length) for length in drawn(4) * 3]
    batches = by_length(examples, most, 0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(examples)))
    assert all(b.input_ids.numel() <= most or len(b.rows) == 1 for b in batches)
    for one, other in pairwise(batches):
        width = min(len(examples[row].ids) for row in other.rows)
        assert one.input_ids.shape[1] <= width
        assert (len(one.rows) + 1) * width > most


def test_evaluation_sees_every_example_once() -> None:
    examples = [example(length) for length in drawn(8) * 3]
    batches = by_length(examples, 500, 0, Packing(attention=0.0, longest=300, budget=10_000))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(examples)))
    tokens = torch.cat([batch.input_ids[batch.positions > 0] for batch in batches])
    assert len(tokens) == sum(len(one.ids) - 1 for one in examples)
