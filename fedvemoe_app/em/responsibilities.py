"""The E-step at silo level: which experts explain this silo's probe tokens, and how much.

A silo passes its probe set through every alive expert once and keeps the matrix
``log_lik [T, K]``; everything here works on that matrix and costs no further model pass.
The weights maximise the mixture evidence ``sum_t log sum_k r_k p_k(y_t)`` under a Dirichlet
prior (stacking; method.md, "E-step"), not the softmax of mean losses that the research
skeleton used, which is kept as ``softmax``. ``argmin`` and ``sequence`` are the E-steps of two
other algorithms, IFCA and FedEM, so that they can be compared on the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rule = Literal["stacking", "softmax", "argmin", "sequence"]
Vectors = NDArray[np.float64]

MAX_STEPS = 200
TOLERANCE = 1e-10
"""Nats of the summed objective; what Newton's last step leaves is far smaller."""
LEAST_PULL = 1e-7
"""Pseudo-tokens that every living expert keeps, so that no weight reaches the simplex's edge."""


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

    They are the fixed point of the EM ``r <- (sum_t alpha_tk + tau pi_k) / (T + tau)`` with
    ``alpha_tk = r_k p_k(y_t) / sum_j r_j p_j(y_t)``. The objective is concave, so Newton's
    method finds them to rounding in a dozen steps, where EM needs thousands for experts that
    are still alike. An expert with prior zero keeps weight zero, a token that no expert can
    produce says nothing, and with no tokens the prior itself is returned.
    """
    if len(log_lik) == 0:
        return prior.clone()
    known = prior > 0
    weights = torch.zeros_like(prior)
    pull = (tau * prior[known]).clamp(min=LEAST_PULL)
    found = _maximise(_relative(log_lik[:, known]).numpy(), pull.to(torch.float64).numpy())
    weights[known] = torch.from_numpy(found).to(weights.dtype)
    return weights


def _relative(log_lik: Tensor) -> Tensor:
    """Return each token's likelihood relative to its best expert [T', K], float64."""
    log_lik = log_lik.to(torch.float64)
    log_lik = log_lik[(log_lik > -torch.inf).any(dim=1)]
    return (log_lik - log_lik.max(dim=1, keepdim=True).values).exp()


def _maximise(likelihood: Vectors, pull: Vectors) -> Vectors:
    """Return argmax_r ``sum_t log sum_k r_k p_tk + sum_k pull_k log r_k`` on the simplex.

    The multiplier of ``sum_k r_k = 1`` is known to be T + sum_k pull_k, so the constraint enters
    as a linear term. The direction is relative, dr / r, which keeps the system well scaled.
    The systems are tiny: NumPy, whose calls cost a fraction of PyTorch's.
    """
    multiplier = len(likelihood) + pull.sum()

    def value(weights: Vectors, mixed: Vectors) -> float:
        fit = np.log(mixed).sum() + (pull * np.log(weights)).sum()
        return float(fit - multiplier * weights.sum())

    weights = pull / pull.sum()
    mixed = likelihood @ weights
    reached = value(weights, mixed)
    for _ in range(MAX_STEPS):
        alpha = likelihood * weights / mixed[:, None]
        gradient = alpha.sum(axis=0) + pull - multiplier * weights
        direction = np.linalg.solve(alpha.T @ alpha + np.diag(pull), gradient)
        length = min(1.0, 0.95 / max(float(-direction.min()), 0.95))  # weights stay positive
        least = reached - TOLERANCE
        while True:
            moved = weights * (1 + length * direction)
            mixed = likelihood @ moved
            reached = value(moved, mixed)
            if reached >= least:
                break
            length /= 2
        weights = moved
        if float(gradient @ direction) < TOLERANCE:  # twice what was left to gain, in nats
            break
    return np.asarray(weights / weights.sum())


def softmax(log_lik: Tensor, prior: Tensor, *, kappa: float) -> Tensor:
    """Return ``softmax_k(log pi_k - kappa L_k)``, L_k the mean loss in nats per token.

    The research skeleton's formula. ``kappa`` is an inverse temperature in 1/nats, the
    "effective number of independent probe tokens"; it has no right value for silos of mixed
    domains, which is why stacking is the default. With no tokens the prior is returned.
    """
    if len(log_lik) == 0:
        return prior.clone()
    return torch.softmax(prior.log() + kappa * log_lik.mean(dim=0), dim=0)


def cheapest(log_lik: Tensor, prior: Tensor) -> Tensor:
    """Return one-hot weights [K] on the expert of least mean loss, the first of equals.

    IFCA's cluster estimate (Ghosh et al. 2020); it knows no prior beyond who is alive. With no
    tokens it is the first expert that lives.
    """
    known = torch.where(prior > 0, log_lik.sum(dim=0), -torch.inf)
    return torch.eye(len(prior), dtype=prior.dtype)[int(known.argmax())]


def by_sequence(log_lik: Tensor, lengths: Sequence[int], prior: Tensor) -> Tensor:
    """Return weights omega [K] of a mixture in which every *example* has one expert.

    FedEM's (Marfoq et al. 2021): the fixed point of ``omega_k = mean_s q_sk`` with
    ``q_sk ~ omega_k exp(sum_t log p_k(y_t))`` over the examples s of ``lengths`` tokens. The
    prior says who is alive and no more; every living expert keeps a positive weight.
    """
    examples = torch.stack([part.sum(dim=0) for part in torch.split(log_lik, list(lengths))])
    alive = (prior > 0).to(prior.dtype)
    return stack(examples, alive / alive.sum(), tau=0.0)


def infer(
    log_lik: Tensor,
    prior: Tensor,
    *,
    lengths: Sequence[int] | None = None,
    top_m: int,
    rho: float = 0.15,
    predict_floor: float = 0.02,
    tau: float = 1.0,
    rule: Rule = "stacking",
    kappa: float = 100.0,
    gamma: float = 1.0,
) -> Responsibilities:
    """Return a silo's responsibilities from its probe matrix.

    Parameters
    ----------
    log_lik
        [T, K] nats, one column per alive expert.
    prior
        [K], the bank's prior over alive experts, sums to one.
    lengths
        Tokens of each example, in order; they sum to T. By default all are one example.
    rule
        ``stacking`` and ``softmax`` take all settings below; ``argmin`` and ``sequence`` have
        no settings, and one set of weights for all purposes.
    top_m, rho
        Experts with weight below ``rho`` (never the largest) and beyond the ``top_m``
        largest are not trained; the weights are inferred anew on what remains.
    predict_floor
        Experts below this weight are left out of predictions.
    tau, gamma
        Strength of the prior in tokens, and temperature of the token posterior, for stacking.
    kappa
        Inverse temperature of the softmax rule.

    """
    if rule == "argmin":
        return _everywhere(cheapest(log_lik, prior))
    if rule == "sequence":
        return _everywhere(by_sequence(log_lik, lengths or [len(log_lik)], prior))

    def weights(support: Tensor) -> Tensor:
        restricted = torch.where(support, prior, 0.0)
        restricted = restricted / restricted.sum()
        if rule == "softmax":
            return softmax(log_lik, restricted, kappa=kappa)
        return stack(log_lik / gamma, restricted, tau=tau)

    dense = weights(torch.ones_like(prior, dtype=torch.bool))
    return Responsibilities(
        dense=dense,
        predict=weights(support(dense, floor=predict_floor, most=len(prior))),
        train=weights(support(dense, floor=rho, most=top_m)),
    )


def _everywhere(weights: Tensor) -> Responsibilities:
    return Responsibilities(dense=weights, predict=weights, train=weights)


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
