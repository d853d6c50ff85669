"""Sums: they add in any order, travel as arrays, and many silos equal one pooled silo."""

from __future__ import annotations

import functools
import operator

import pytest
import torch

from fedvemoe_app import seeds
from fedvemoe_app.em.family import Fit
from fedvemoe_app.em.round import Inference, assess, train
from fedvemoe_app.em.sketch import moments
from fedvemoe_app.em.statistics import Assessment, Sums, Update, spread, update
from tests.dice import Dice, bank_of, loaded, silos

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def close(one: Sums, other: Sums, tolerance: float) -> bool:
    mine, theirs = one.arrays(), other.arrays()
    return mine.keys() == theirs.keys() and all(
        torch.allclose(array, theirs[name], rtol=0, atol=tolerance) for name, array in mine.items()
    )


def assessments(seed: int) -> list[Assessment]:
    bank = bank_of(loaded(seeds.stream(seed, "bank"), 3))
    return [assess(silo, bank, Inference())[1] for silo in silos(seed)]


def updates(seed: int) -> list[Update]:
    bank = bank_of(loaded(seeds.stream(seed, "bank"), 3))
    return [train(silo, bank, WEIGHTS, 1) for silo in silos(seed)]


@pytest.mark.parametrize("make", [assessments, updates])
def test_addition_knows_no_order(make) -> None:
    a, b, c, *_ = make(0)
    assert close(a + b, b + a, 1e-12)
    assert close((a + b) + c, a + (b + c), 1e-12)


@pytest.mark.parametrize("make", [assessments, updates])
def test_arrays_make_the_same_record_again(make) -> None:
    record = make(1)[0]
    again = type(record).from_arrays(record.arrays())
    assert close(record, again, 0.0)
    assert type(again) is type(record)


def test_names_of_arrays_say_field_and_tensor() -> None:
    assert {"weight", "delta/faces", "squares/faces"} <= updates(2)[0].arrays().keys()


def test_a_missing_array_is_an_error() -> None:
    arrays = updates(2)[0].arrays()
    del arrays["weight"]
    with pytest.raises(KeyError, match="weight"):
        Update.from_arrays(arrays)


def test_the_update_of_a_pooled_silo_is_the_sum_over_its_parts() -> None:
    """Goes red when a delta is not weighted by its mass, or weighted twice."""
    bank = bank_of(loaded(seeds.stream(3, "bank"), 3))
    parts = silos(3)
    pooled = Dice(torch.cat([part.rolls for part in parts]))
    total = functools.reduce(
        operator.add, [train(p, bank, WEIGHTS, 1, silo_weight="tokens") for p in parts]
    ).arrays()
    whole = train(pooled, bank, WEIGHTS, 1, silo_weight="tokens").arrays()
    for name in ("tokens", "loss", "silo_weight", "weight", "delta/faces"):
        assert torch.allclose(total[name], whole[name], rtol=0, atol=1e-9), name


def test_the_counts_of_an_assessment_add_up() -> None:
    parts = silos(4)
    total = functools.reduce(operator.add, assessments(4))
    assert float(total.silos) == len(parts)
    assert float(total.tokens) == sum(part.size for part in parts)
    assert float(total.mass.sum()) == pytest.approx(len(parts), abs=1e-9)
    assert len(parts) <= float(total.contributors.sum()) <= 2 * len(parts)


def test_squares_bound_the_length_of_the_mean_change() -> None:
    """Cauchy-Schwarz: |sum w d|^2 <= sum w * sum w |d|^2, with equality for a single silo."""
    one, *_ = made = updates(5)
    total = functools.reduce(operator.add, made)
    for record, slack in ((one, 1e-12), (total, torch.inf)):
        mean = record.delta["faces"].square().sum(dim=1)
        bound = record.weight * record.squares["faces"]
        assert bool((mean <= bound + 1e-12).all())
        assert bool((mean >= bound - slack).all())


def test_float32_changes_are_summed_in_float64() -> None:
    """Goes red when ``+`` keeps the summands' float32: 1e-4 is lost beside 1e4."""
    slots = torch.tensor([0])

    def silo(change: float) -> Update:
        fit = Fit({"A": torch.tensor([[change]])}, torch.ones(1), 0.0, 1)
        return update(fit, slots, 1, 1.0)

    total = silo(1e4) + silo(1e-4) + silo(-1e4)
    assert float(total.delta["A"]) == pytest.approx(1e-4, rel=1e-6)


def test_spread_puts_values_at_their_slots() -> None:
    full = spread(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 1]), 4)
    assert full.flatten().tolist() == [0.0, 2.0, 0.0, 1.0]


def test_moments_add_like_everything_else() -> None:
    a, b = (moments(torch.randn(4, dtype=torch.float64)) for _ in range(2))
    assert float((a + b).silos) == 2.0
    assert torch.allclose((a + b).second, a.second + b.second)
