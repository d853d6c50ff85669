"""The token posterior that trains and the filter that predicts, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.mixture import SHARES, advance, choose_share, filtered, token_posterior

T, K, V = 6, 3, 5
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def tables(seed: int) -> Tensor:
    """Return [T, K, V] log-probabilities: what each expert expects at each position."""
    draws = seeds.stream(seed, "tables").standard_normal((T, K, V))
    return torch.from_numpy(1.5 * draws).log_softmax(dim=-1)


def read(log_probs: Tensor, tokens: list[int]) -> Tensor:
    """Return log_lik [T, K] of a sequence of tokens."""
    return log_probs[torch.arange(T), :, torch.tensor(tokens)]


@pytest.mark.parametrize("share", SHARES)
def test_predictions_sum_to_one_over_the_vocabulary(share: float) -> None:
    """Goes red when ``filtered`` advances its weights before it predicts: peeking."""
    log_probs, tokens = tables(0), [1, 4, 2, 0, 3, 1]
    for t in range(T):
        total = 0.0
        for v in range(V):
            changed = [*tokens[:t], v, *tokens[t + 1 :]]
            total += float(filtered(read(log_probs, changed), [T], PRIOR, share)[t].exp())
        assert total == pytest.approx(1.0, abs=1e-12)


def test_a_prediction_depends_on_the_past_alone() -> None:
    log_probs, tokens = tables(1), [1, 4, 2, 0, 3, 1]
    before = filtered(read(log_probs, tokens), [T], PRIOR, 0.1)
    after = filtered(read(log_probs, [1, 4, 2, 1, 3, 1]), [T], PRIOR, 0.1)
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[4], after[4])


def test_the_weights_before_a_token_do_not_depend_on_it() -> None:
    """The recursion that generation uses gives the same predictions as the filter."""
    log_lik, weights, share = read(tables(2), [1, 4, 2, 0, 3, 1]), PRIOR, 0.2
    steps = []
    for t in range(T):
        steps.append(torch.logsumexp(weights.log() + log_lik[t], dim=0))
        weights = advance(weights, log_lik[t], PRIOR, share)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert torch.allclose(torch.stack(steps), filtered(log_lik, [T], PRIOR, share), atol=1e-12)


def test_share_one_is_the_static_mixture() -> None:
    log_lik = read(tables(3), [0, 1, 2, 3, 4, 0])
    static = torch.logsumexp(PRIOR.log() + log_lik, dim=1)
    assert torch.allclose(filtered(log_lik, [T], PRIOR, 1.0), static, rtol=0, atol=1e-12)


def test_share_zero_is_the_posterior_over_one_expert_per_sequence() -> None:
    """Goes red when a sequence starts from anything but the prior."""
    log_lik = read(tables(4), [0, 1, 2, 3, 4, 0])
    expected = []
    for part in (log_lik[:2], log_lik[2:]):
        joint = torch.logsumexp(PRIOR.log() + part.cumsum(dim=0), dim=1)
        expected.append(torch.diff(joint, prepend=joint.new_zeros(1)))
    result = filtered(log_lik, [2, T - 2], PRIOR, 0.0)
    assert torch.allclose(result, torch.cat(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_any_share_is_the_sum_over_all_paths_of_experts(share: float) -> None:
    log_lik = read(tables(5), [4, 3, 2, 1, 0, 2])
    total = 0.0
    for path in itertools.product(range(K), repeat=T):
        chance = float(PRIOR[path[0]] * log_lik[0, path[0]].exp())
        for t in range(1, T):
            stay = (1 - share) * (path[t] == path[t - 1])
            chance *= float((stay + share * PRIOR[path[t]]) * log_lik[t, path[t]].exp())
        total += chance
    assert float(filtered(log_lik, [T], PRIOR, share).sum()) == pytest.approx(np.log(total))


def test_sequences_do_not_know_each_other_and_may_be_empty() -> None:
    log_lik = read(tables(6), [0, 1, 2, 3, 4, 0])
    apart = [filtered(log_lik[:2], [2], PRIOR, 0.1), filtered(log_lik[2:], [4], PRIOR, 0.1)]
    assert torch.allclose(filtered(log_lik, [2, 0, 4], PRIOR, 0.1), torch.cat(apart))
    assert filtered(log_lik[:0], [], PRIOR, 0.1).shape == (0,)


def test_an_expert_outside_the_prior_is_never_heard() -> None:
    log_lik = read(tables(7), [0, 1, 2, 3, 4, 0])
    prior = torch.tensor([0.6, 0.0, 0.4], dtype=torch.float64)
    alone = filtered(log_lik[:, [0, 2]], [T], prior[[0, 2]], 0.1)
    assert torch.allclose(filtered(log_lik, [T], prior, 0.1), alone, rtol=0, atol=1e-12)


def sticky(stickiness: float, seed: int) -> tuple[Tensor, list[int]]:
    """Return log_lik [N, K] and lengths of sequences that keep their expert so often."""
    rng = seeds.stream(seed, "sticky")
    experts = seeds.stream(0, "experts").dirichlet(np.full(20, 0.4), size=K)
    rows, lengths = [], [30] * 25
    for length in lengths:
        expert = rng.choice(K, p=PRIOR.numpy())
        for t in range(length):
            if t and rng.random() >= stickiness:
                expert = rng.choice(K, p=PRIOR.numpy())
            rows.append(np.log(experts[:, rng.choice(20, p=experts[expert])]))
    return torch.from_numpy(np.array(rows)), lengths


@pytest.mark.parametrize("stickiness", [0.0, 0.5, 0.9, 1.0])
def test_the_chosen_share_is_near_the_best_on_fresh_data(stickiness: float) -> None:
    chosen = choose_share(*sticky(stickiness, 1), PRIOR)
    log_lik, lengths = sticky(stickiness, 2)
    loss = {s: -float(filtered(log_lik, lengths, PRIOR, s).mean()) for s in SHARES}
    assert loss[chosen] <= min(loss.values()) + 0.01
    assert max(loss.values()) > min(loss.values()) + 0.05


def test_a_single_expert_needs_no_share() -> None:
    one = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert choose_share(read(tables(8), [0] * T), [T], one) == 1.0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_token_posterior_is_bayes_rule(gamma: float) -> None:
    log_lik = read(tables(9), [0, 1, 2, 3, 4, 0])
    joint = PRIOR.numpy() * np.exp(log_lik.numpy()) ** (1 / gamma)
    expected = joint / joint.sum(axis=1, keepdims=True)
    assert token_posterior(log_lik, PRIOR, gamma=gamma).numpy() == pytest.approx(expected)


def test_the_posterior_is_the_gradient_of_the_evidence() -> None:
    log_lik = read(tables(10), [0, 1, 2, 3, 4, 0]).requires_grad_()
    torch.logsumexp(PRIOR.log() + log_lik, dim=1).sum().backward()
    alpha = token_posterior(log_lik.detach(), PRIOR)
    assert torch.allclose(log_lik.grad, alpha, rtol=0, atol=1e-15)
