"""What the bank, and each expert in it, is worth to a silo: held-out, cross-fitted scores.

The weights are inferred on one half of the probe and the score is taken on the other, both
ways round; without this each score carries an optimism of about (K - 1) / (2 T) nats a token
(method-details.md, 1.4). All figures come from the cached probe matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvemoe_app.em.gain import standard_error
from fedvemoe_app.em.responsibilities import evidence, stack


@dataclass(frozen=True, slots=True)
class Scores:
    """One silo's scores, in nats per probe token.

    ``tokens [T]`` are log sum_k r_k p_k, the weights of each inferred on the other half; ``total``
    is their mean F; ``gain [K]`` is F minus F without expert k, and ``variance [K]`` the square of
    its standard error over examples; ``displaced [K, K]`` in row k is the weight that each other
    expert takes on when k is removed.
    """

    tokens: Tensor
    total: float
    gain: Tensor
    variance: Tensor
    displaced: Tensor


def cross_fitted(log_lik: Tensor, owners: Tensor, prior: Tensor, *, tau: float = 1.0) -> Scores:
    """Return the scores of a probe matrix ``log_lik`` [T, K].

    ``owners`` [T] is the number of the example that each token belongs to: even and odd examples
    make the two halves, so that tokens of one answer never stand on both sides. A half without
    tokens leaves the other to the prior; a probe without tokens scores zero.
    """
    tokens = scored(log_lik, owners, prior, tau=tau)
    total = _mean(tokens)
    gain, variance = torch.zeros_like(prior), torch.zeros_like(prior)
    displaced = torch.zeros(len(prior), len(prior), dtype=prior.dtype)
    full = stack(log_lik, prior, tau=tau)
    for k in range(len(prior)):
        rest = without(prior, k)
        if rest is None:
            continue
        others = scored(log_lik, owners, rest, tau=tau)
        gain[k], variance[k] = total - _mean(others), _variance(tokens - others, owners)
        displaced[k] = (stack(log_lik, rest, tau=tau) - full).clamp(min=0.0)
    return Scores(tokens, total, gain, variance, displaced)


def scored(log_lik: Tensor, owners: Tensor, prior: Tensor, *, tau: float = 1.0) -> Tensor:
    """Return log sum_k r_k p_k [T] of each token, nats, its weights inferred on the other half."""
    even = owners % 2 == 0
    tokens = torch.zeros(len(log_lik), dtype=torch.float64)
    for half in (even, ~even):
        weights = stack(log_lik[~half], prior, tau=tau)
        tokens[half] = evidence(log_lik[half], weights).to(torch.float64)
    return tokens


def worth(log_lik: Tensor, owners: Tensor, prior: Tensor, k: int, *, tau: float = 1.0) -> float:
    """Return F minus F without expert ``k``, cross-fitted; zero for the only expert."""
    rest = without(prior, k)
    if rest is None:
        return 0.0
    whole = scored(log_lik, owners, prior, tau=tau)
    return _mean(whole) - _mean(scored(log_lik, owners, rest, tau=tau))


def _variance(tokens: Tensor, owners: Tensor) -> float:
    """Return the squared standard error of the mean; of one example, which has none, its square."""
    error = standard_error(tokens, owners)
    return error**2 if math.isfinite(error) else _mean(tokens) ** 2


def _mean(tokens: Tensor) -> float:
    return float(tokens.sum()) / max(len(tokens), 1)


def without(prior: Tensor, k: int) -> Tensor | None:
    """Return the prior over the other experts, or None where there is no other."""
    rest = prior.clone()
    rest[k] = 0.0
    return rest / rest.sum() if float(rest.sum()) > 0 else None
