"""The gain of one prediction over another: held out, and with an error over examples."""

from __future__ import annotations

import math

import pytest
import torch

from fedvemoe_app.em.gain import Gain, gain
from fedvemoe_app.em.scores import cross_fitted, scored

OWNERS = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])


def matrix(tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator, dtype=torch.float64) - 2


def test_the_mean_of_the_held_out_evidence_is_the_cross_fitted_total() -> None:
    log_lik, prior = matrix(8, 3), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = scored(log_lik, OWNERS, prior, tau=2.0)
    total = cross_fitted(log_lik, OWNERS, prior, tau=2.0).total
    assert float(found.mean()) == pytest.approx(total, abs=1e-12)


def test_a_token_is_scored_without_its_own_half() -> None:
    log_lik, prior = matrix(8, 2), torch.tensor([0.5, 0.5], dtype=torch.float64)
    changed = log_lik.clone()
    changed[OWNERS == 2] -= torch.tensor([9.0, 0.0], dtype=torch.float64)  # an even example
    before, after = (scored(each, OWNERS, prior) for each in (log_lik, changed))
    assert torch.equal(before[OWNERS == 0], after[OWNERS == 0])
    assert not torch.allclose(before[OWNERS == 1], after[OWNERS == 1])


def test_a_constant_gain_is_certain_and_one_example_is_no_evidence() -> None:
    better = matrix(8, 1)[:, 0]
    assert gain(better + 0.5, better, OWNERS).nats == pytest.approx(0.5)
    assert gain(better + 0.5, better, OWNERS).error == pytest.approx(0.0, abs=1e-12)
    one = gain(better + 0.5, better, torch.zeros(8, dtype=torch.long))
    assert (one.nats, one.error) == (pytest.approx(0.5), math.inf)
    assert not one.exceeds(0.0)
    assert gain(better[:0], better[:0], OWNERS[:0]) == Gain(0.0, math.inf)


def test_the_error_is_that_of_the_mean_over_examples() -> None:
    """For examples of one length it is the textbook error of their means."""
    difference = matrix(40, 1, seed=3)[:, 0]
    owners = torch.arange(10).repeat_interleave(4)
    means = difference.view(10, 4).mean(dim=1)
    found = gain(difference, torch.zeros(40, dtype=torch.float64), owners)
    assert found.error == pytest.approx(float(means.std() / math.sqrt(10)))


def test_a_gain_counts_above_threshold_and_above_its_error() -> None:
    assert Gain(0.5, 0.1).exceeds(0.01)
    assert not Gain(0.5, 0.6).exceeds(0.01)
    assert not Gain(0.005, 0.001).exceeds(0.01)
