"""The E-step at silo level: which experts explain this silo's probe tokens, and how much.

A silo passes its probe set through every alive expert once and keeps the matrix
``log_lik [T, K]``; everything here works on that matrix and costs no further model pass.
The weights maximise the mixture evidence ``sum_t log sum_k r_k p_k(y_t)`` under a Dirichlet
prior (stacking; method.md, "E-step"), not the softmax of mean losses that the research
skeleton used, which is kept as ``softmax``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["stacking", "softmax"]

MAX_ITERATIONS = 500
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Responsibilities:
    """What a silo believes; it never leaves the silo except in sums.

    ``dense [K]`` are the weights themselves, the silo's mass; ``predict [K]`` weighs the experts
    in predictions; ``train [K]`` has at most ``top_m`` non-zero entries and says which experts
    the silo trains. Each sums to one.
    """

    dense: Tensor
    predict: Tensor
    train: Tensor


def stack(log_lik: Tensor, prior: Tensor, *, tau: float = 1.0) -> Tensor:
    """Return the MAP mixture weights of ``log_lik`` [T, K] (nats) under Dirichlet(tau * prior).

    Iterates ``r <- (sum_t alpha_tk + tau pi_k) / (T + tau)`` with
    ``alpha_tk = r_k p_k(y_t) / sum_j r_j p_j(y_t)``, an EM for a concave objective, from
    ``r = prior`` until no weight moves by more than 1e-10. An expert with prior zero keeps
    weight zero. With no tokens the prior itself is returned.
    """
    likelihood = (log_lik - log_lik.max(dim=1, keepdim=True).values).exp()
    weights = prior.clone()
    for _ in range(MAX_ITERATIONS):
        joint = likelihood * weights
        alpha_sum = (joint / joint.sum(dim=1, keepdim=True)).sum(dim=0)
        updated = (alpha_sum + tau * prior) / (len(log_lik) + tau)
        moved = float((updated - weights).abs().max())
        weights = updated
        if moved < TOLERANCE:
            break
    return weights


def softmax(log_lik: Tensor, prior: Tensor, *, kappa: float) -> Tensor:
    """Return ``softmax_k(log pi_k - kappa L_k)``, L_k the mean loss in nats per token.

    The research skeleton's formula. ``kappa`` is an inverse temperature in 1/nats, the
    "effective number of independent probe tokens"; it has no right value for silos of mixed
    domains, which is why stacking is the default.
    """
    return torch.softmax(prior.log() + kappa * log_lik.mean(dim=0), dim=0)


def infer(
    log_lik: Tensor,
    prior: Tensor,
    *,
    top_m: int,
    rho: float = 0.15,
    predict_floor: float = 0.02,
    tau: float = 1.0,
    rule: Rule = "stacking",
    kappa: float = 100.0,
) -> Responsibilities:
    """Return a silo's responsibilities from its probe matrix.

    Parameters
    ----------
    log_lik
        [T, K] nats, one column per alive expert.
    prior
        [K], the bank's prior over alive experts, sums to one.
    top_m, rho
        Experts with weight below ``rho`` (never the largest) and beyond the ``top_m``
        largest are not trained; the weights are inferred anew on what remains.
    predict_floor
        Experts below this weight are left out of predictions.

    """

    def weights(support: Tensor) -> Tensor:
        restricted = torch.where(support, prior, 0.0)
        restricted = restricted / restricted.sum()
        if rule == "softmax":
            return softmax(log_lik, restricted, kappa=kappa)
        return stack(log_lik, restricted, tau=tau)

    dense = weights(torch.ones_like(prior, dtype=torch.bool))
    return Responsibilities(
        dense=dense,
        predict=weights(support(dense, floor=predict_floor, most=len(prior))),
        train=weights(support(dense, floor=rho, most=top_m)),
    )


def support(weights: Tensor, *, floor: float, most: int) -> Tensor:
    """Return [K] bool: the ``most`` largest weights that reach ``floor``; always the largest."""
    order = torch.argsort(weights, descending=True, stable=True)[:most]
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    chosen[order] = weights[order] >= floor
    chosen[order[0]] = True
    return chosen


def evidence(log_lik: Tensor, weights: Tensor) -> Tensor:
    """Return ``log sum_k r_k p_k(y_t)`` [T], nats, for fixed weights [K]."""
    return torch.logsumexp(log_lik + weights.log(), dim=1)
