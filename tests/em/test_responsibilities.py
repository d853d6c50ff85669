"""The E-step's weights: stacking, the softmax of the skeleton, and which experts are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.responsibilities import evidence, infer, softmax, stack, support


def probe(seed: int, tokens: int = 300, experts: int = 4, spread: float = 0.5) -> Tensor:
    rng = seeds.stream(seed, "probe")
    return torch.from_numpy(spread * rng.standard_normal((tokens, experts)) - 2.0)


def prior(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def objective(log_lik: Tensor, pi: Tensor, weights: Tensor, tau: float) -> float:
    return float(evidence(log_lik, weights).sum() + tau * (pi * weights.log()).sum())


@pytest.mark.parametrize("spread", [0.01, 0.5, 20.0])
@pytest.mark.parametrize("tau", [0.1, 1.0, 50.0])
def test_stacking_beats_every_random_point_of_the_simplex(spread: float, tau: float) -> None:
    log_lik, pi = probe(0, spread=spread), prior(0.4, 0.3, 0.2, 0.1)
    best = objective(log_lik, pi, stack(log_lik, pi, tau=tau), tau)
    points = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), size=1000))
    assert all(objective(log_lik, pi, point, tau) <= best + 1e-9 for point in points)


@pytest.mark.parametrize("experts", [2, 5, 12])
@pytest.mark.parametrize("spread", [1e-4, 0.1, 3.0, 60.0])
def test_stacking_is_the_fixed_point_of_em(experts: int, spread: float) -> None:
    """Goes red when the gradient, the prior's pull or the multiplier in ``_maximise`` changes."""
    log_lik, pi = probe(1, experts=experts, spread=spread), torch.ones(experts).double() / experts
    weights = stack(log_lik, pi, tau=2.0)
    alpha = torch.softmax(weights.log() + log_lik, dim=1)
    again = (alpha.sum(dim=0) + 2.0 * pi) / (len(log_lik) + 2.0)
    assert torch.allclose(weights, again, rtol=0, atol=1e-9)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_evidence_is_concave_in_the_weights() -> None:
    log_lik = probe(2)
    points = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(4), size=(100, 2)))
    for a, b in points:
        ends = (evidence(log_lik, a).sum() + evidence(log_lik, b).sum()) / 2
        assert evidence(log_lik, (a + b) / 2).sum() >= ends - 1e-9


def test_an_expert_with_prior_zero_keeps_weight_zero_even_if_it_is_the_best_by_far() -> None:
    log_lik = probe(3)
    log_lik[:, 1] += 2000.0
    weights = stack(log_lik, prior(0.5, 0.0, 0.3, 0.2))
    assert weights[1] == 0.0
    others = stack(log_lik[:, [0, 2, 3]], prior(0.5, 0.3, 0.2))
    assert torch.allclose(weights[[0, 2, 3]], others, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_without_tokens_the_prior_is_returned(tau: float) -> None:
    pi = prior(0.7, 0.2, 0.1)
    nothing = torch.empty(0, 3, dtype=torch.float64)
    assert torch.allclose(stack(nothing, pi, tau=tau), pi, rtol=0, atol=1e-12)
    assert torch.equal(softmax(nothing, pi, kappa=100.0), pi)


def test_a_dominating_expert_takes_all_but_the_prior_s_share() -> None:
    log_lik = probe(4)
    log_lik[:, 2] += 50.0
    weights = stack(log_lik, prior(0.25, 0.25, 0.25, 0.25))
    assert weights[2] == pytest.approx((300 + 0.25) / 301, abs=1e-12)
    assert weights[0] == pytest.approx(0.25 / 301, abs=1e-12)


def test_a_token_that_no_expert_can_produce_says_nothing() -> None:
    log_lik, pi = probe(5), prior(0.4, 0.3, 0.2, 0.1)
    impossible = torch.full((3, 4), -torch.inf, dtype=torch.float64)
    assert torch.equal(stack(torch.cat([log_lik, impossible]), pi), stack(log_lik, pi))


def test_without_a_prior_s_strength_weights_are_still_finite() -> None:
    weights = stack(probe(6), prior(0.25, 0.25, 0.25, 0.25), tau=0.0)
    assert bool(weights.isfinite().all())
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_softmax_rule_is_the_skeleton_s_formula() -> None:
    log_lik, pi = probe(7), prior(0.4, 0.3, 0.2, 0.1)
    scores = np.log(pi.numpy()) - 7.0 * -log_lik.numpy().mean(axis=0)
    expected = np.exp(scores) / np.exp(scores).sum()
    assert softmax(log_lik, pi, kappa=7.0).numpy() == pytest.approx(expected, abs=1e-12)


def test_the_softmax_rule_knows_no_gamma() -> None:
    log_lik, pi = probe(8), prior(0.4, 0.3, 0.2, 0.1)
    plain = infer(log_lik, pi, top_m=4, rule="softmax", kappa=7.0)
    warm = infer(log_lik, pi, top_m=4, rule="softmax", kappa=7.0, gamma=5.0)
    assert torch.equal(plain.dense, warm.dense)


def test_support_keeps_the_largest_that_reach_the_floor() -> None:
    weights = prior(0.3, 0.1, 0.4, 0.2)
    assert support(weights, floor=0.15, most=2).tolist() == [True, False, True, False]
    assert support(weights, floor=0.15, most=4).tolist() == [True, False, True, True]
    assert support(weights, floor=0.35, most=4).tolist() == [False, False, True, False]


def test_support_never_drops_the_largest() -> None:
    assert support(prior(0.3, 0.4, 0.3), floor=0.9, most=3).tolist() == [False, True, False]


def test_training_weights_are_inferred_anew_on_what_remains() -> None:
    log_lik, pi = probe(9, spread=1.0), prior(0.4, 0.3, 0.2, 0.1)
    log_lik += torch.tensor([0.5, 0.0, 0.4, 0.3])
    found = infer(log_lik, pi, top_m=2, rho=0.0)
    kept = found.dense.argsort(descending=True)[:2].sort().values
    assert torch.nonzero(found.train).flatten().tolist() == kept.tolist()
    again = stack(log_lik[:, kept], pi[kept] / pi[kept].sum())
    assert torch.allclose(found.train[kept], again, rtol=0, atol=1e-12)
    assert not torch.allclose(again, found.dense[kept] / found.dense[kept].sum(), atol=1e-4)


def test_rho_and_the_predict_floor_act_each_on_its_own_weights() -> None:
    dense = prior(0.90, 0.09, 0.01)
    alike = torch.full((400, 3), -2.0, dtype=torch.float64)
    found = infer(alike, dense, top_m=3, rho=0.15, predict_floor=0.02)
    assert torch.allclose(found.dense, dense, rtol=0, atol=1e-9)
    assert found.train.tolist() == [1.0, 0.0, 0.0]
    assert found.predict.tolist() == pytest.approx([0.90 / 0.99, 0.09 / 0.99, 0.0], abs=1e-9)


@pytest.mark.parametrize("least", [1e-12, 1e-100, 1e-300])
def test_duplicates_with_hardly_any_prior_do_no_harm(least: float) -> None:
    log_lik = probe(10)[:, [0, 0, 1, 2]]
    weights = stack(log_lik, prior(least, least, 0.5, 0.5))
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(weights[0]) == pytest.approx(float(weights[1]), abs=1e-6)  # a flat direction


# The E-steps of other algorithms.


def test_argmin_is_one_hot_on_the_least_mean_loss_whatever_the_prior() -> None:
    log_lik = probe(7)
    best = int(log_lik.mean(dim=0).argmax())
    pi = torch.full((4,), 0.3, dtype=torch.float64)
    pi[best] = 0.1
    found = infer(log_lik, pi, top_m=2, rule="argmin")
    for weights in (found.dense, found.predict, found.train):
        assert weights.tolist() == [float(k == best) for k in range(4)]
    dead = torch.where(torch.arange(4) == best, 0.0, pi)
    assert infer(log_lik, dead / dead.sum(), top_m=2, rule="argmin").train[best] == 0.0


def test_weights_by_sequence_are_the_fixed_point_of_fedem() -> None:
    """Goes red when tokens are weighed one by one, or the prior pulls."""
    lengths = [3, 1, 7, 20, 9]
    log_lik, pi = probe(8, tokens=sum(lengths), spread=0.3), prior(0.7, 0.1, 0.1, 0.1)
    found = infer(log_lik, pi, lengths=lengths, top_m=1, rho=0.5, rule="sequence")
    omega = found.dense
    q = []
    for part in torch.split(log_lik, lengths):
        joint = omega * part.sum(dim=0).exp()
        q.append(joint / joint.sum())
    assert torch.allclose(torch.stack(q).mean(dim=0), omega, rtol=0, atol=1e-6)
    assert (omega > 0).all()
    assert torch.equal(found.train, omega)
    assert torch.equal(found.predict, omega)
    assert not torch.allclose(omega, infer(log_lik, pi, top_m=4, rho=0.0).dense, atol=1e-2)
