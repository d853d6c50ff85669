"""Probing in two parts: the second under those experts alone that can still matter.

Stacking is concave, and at its solution r an expert of weight zero has a mean likelihood ratio
``g_k = mean_t p_k(y_t) / sum_j r_j p_j(y_t)`` of at most one. The gain that any other weights can
bring is at most ``max_k g_k - 1``. An expert whose ratio is surely below one on a first part of
the probe is not asked about the rest; there it gets the likelihood that this ratio foretells, so
that it stays as hopeless as it was found, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedvemoe_app.em.responsibilities import evidence, stack

PART = 6
"""Every so many examples one belongs to the first part."""
ERRORS = 2.0
"""Standard errors, over examples, by which a ratio must be below one."""
FEWEST = 4
"""Experts below which a probe in two parts saves nothing."""


def judged(log_lik: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return who can still matter [K] bool, the weights [K] and the ratios g [K].

    ``log_lik`` [T, K] nats are those of the first part, its examples ``lengths`` tokens long. The
    standard error of a ratio is taken over examples, whose tokens are not independent.
    """
    experts = log_lik.shape[1]
    weights = stack(log_lik, torch.full((experts,), 1 / experts, dtype=torch.float64))
    ratios = (log_lik - evidence(log_lik, weights).unsqueeze(1)).exp()
    mean = ratios.mean(dim=0)
    excess = torch.stack([part.sum(dim=0) for part in torch.split(ratios - mean, list(lengths))])
    error = excess.square().sum(dim=0).sqrt() / len(log_lik)
    able = mean + ERRORS * error >= 1.0
    able[int(weights.argmax())] = True
    return able, weights, mean


def completed(rest: Tensor, able: Tensor, weights: Tensor, ratios: Tensor) -> Tensor:
    """Return log-likelihoods [T, K] of the second part from those of the experts asked.

    ``rest`` [T, S] are the columns of those who are ``able``; the others get the likelihood of the
    mixture times their ratio.
    """
    asked = weights[able] / weights[able].sum()
    mixture = evidence(rest, asked)
    whole = mixture.unsqueeze(1) + ratios.log().unsqueeze(0)
    whole[:, able] = rest
    return whole
