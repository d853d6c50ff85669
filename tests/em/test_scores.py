"""What an expert is worth: cross-fitted, against a refit by plain EM on the other columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.gain import standard_error
from fedvemoe_app.em.responsibilities import stack
from fedvemoe_app.em.scores import cross_fitted, scored, without

OWNERS = torch.arange(400) // 10
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def probe(seed: int) -> Tensor:
    """Return [400, 4]: every example prefers one expert, the last is preferred by none."""
    rng = seeds.stream(seed, "scores")
    log_lik = torch.from_numpy(rng.standard_normal((400, 4)) - 3.0)
    favourite = torch.from_numpy(rng.integers(3, size=40))[OWNERS]
    log_lik[torch.arange(400), favourite] += 1.0
    return log_lik


def plain_em(log_lik: Tensor, prior: Tensor, tau: float) -> Tensor:
    weights = prior
    for _ in range(3000):
        alpha = torch.softmax(weights.log() + log_lik, dim=1)
        weights = (alpha.sum(dim=0) + tau * prior) / (len(log_lik) + tau)
    return weights


def brute_force(log_lik: Tensor, prior: Tensor, tau: float) -> float:
    """Return the cross-fitted score by refitting the given columns alone."""
    prior, parity = prior / prior.sum(), OWNERS % 2
    total = 0.0
    for side in (0, 1):
        fit, test = log_lik[parity == side], log_lik[parity != side]
        total += float(torch.logsumexp(plain_em(fit, prior, tau).log() + test, dim=1).sum())
    return total / len(log_lik)


def test_score_and_gain_are_those_of_a_refit_without_the_expert() -> None:
    """Goes red when the halves are not exchanged or a gain changes its sign."""
    log_lik = probe(0)
    scores = cross_fitted(log_lik, OWNERS, PRIOR, tau=2.0)
    assert scores.total == pytest.approx(brute_force(log_lik, PRIOR, 2.0), abs=1e-9)
    for k in range(4):
        rest = [j for j in range(4) if j != k]
        expected = scores.total - brute_force(log_lik[:, rest], PRIOR[rest], 2.0)
        assert float(scores.gain[k]) == pytest.approx(expected, abs=1e-9)
    assert scores.gain[:3].min() > 0.01


def test_the_error_of_a_gain_is_that_of_its_mean_over_examples() -> None:
    log_lik = probe(0)
    scores = cross_fitted(log_lik, OWNERS, PRIOR)
    for k in range(4):
        rest = without(PRIOR, k)
        assert rest is not None
        lost = scores.tokens - scored(log_lik, OWNERS, rest)
        assert float(scores.variance[k]) == pytest.approx(standard_error(lost, OWNERS) ** 2)
    one = cross_fitted(log_lik[:10], OWNERS[:10], PRIOR)
    assert torch.allclose(one.variance, one.gain**2)


def test_weights_are_never_scored_on_the_tokens_that_chose_them() -> None:
    """Of experts that are noise, fitted scores are optimistic and cross-fitted ones are not."""
    rng = seeds.stream(1, "noise")
    optimism = []
    for _ in range(20):
        noise = torch.from_numpy(rng.standard_normal((400, 4)))
        uniform = torch.full((4,), 0.25, dtype=torch.float64)
        fitted = torch.logsumexp(stack(noise, uniform).log() + noise, dim=1).mean()
        optimism.append(float(fitted) - cross_fitted(noise, OWNERS, uniform).total)
    assert sum(optimism) / 20 > 0.002


def test_a_duplicate_is_worth_nothing_and_its_twin_takes_its_place() -> None:
    log_lik = probe(2)
    log_lik[:, 1] = log_lik[:, 0]
    scores = cross_fitted(log_lik, OWNERS, torch.full((4,), 0.25, dtype=torch.float64))
    assert abs(float(scores.gain[0])) < 1e-3
    assert abs(float(scores.gain[1])) < 1e-3
    assert scores.gain[2] > 0.01
    assert scores.displaced[0, 1] > 0.98 * scores.displaced[0].sum()


def test_displaced_mass_is_what_was_removed() -> None:
    log_lik = probe(3)
    weights = stack(log_lik, PRIOR)
    displaced = cross_fitted(log_lik, OWNERS, PRIOR).displaced
    assert torch.equal(displaced.diagonal(), torch.zeros(4, dtype=torch.float64))
    assert bool((displaced.sum(dim=1) >= weights - 1e-9).all())
    assert bool((displaced.sum(dim=1) <= weights + 0.02).all())


def test_the_only_expert_has_no_gain_and_displaces_nothing() -> None:
    prior = torch.tensor([0.0, 1.0], dtype=torch.float64)
    scores = cross_fitted(probe(4)[:, :2], OWNERS, prior)
    assert scores.total == pytest.approx(float(probe(4)[:, 1].mean()))
    assert scores.gain.tolist() == [0.0, 0.0]
    assert scores.displaced.sum() == 0.0


def test_one_example_leaves_its_score_to_the_prior() -> None:
    log_lik = probe(5)[:10]
    scores = cross_fitted(log_lik, torch.zeros(10, dtype=torch.long), PRIOR)
    by_prior = torch.logsumexp(PRIOR.log() + log_lik, dim=1).mean()
    assert scores.total == pytest.approx(float(by_prior))


def test_an_empty_probe_scores_zero() -> None:
    scores = cross_fitted(probe(6)[:0], OWNERS[:0], PRIOR)
    assert scores.total == 0.0
    assert scores.gain.tolist() == [0.0] * 4
