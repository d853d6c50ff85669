"""The private slot: one more expert that never leaves its silo, weighed beside the shared ones.

If sharing does not help a silo, the weight of its own expert says so. Nothing that is summed looks
at it, except whether an expert on trial is worth something to silos that have such a slot
(``em.lifecycle``). It was trained on the silo's training examples, so its weight comes from the
held-out part of the probe alone: the examples that top it up would flatter it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedvemoe_app.em.responsibilities import stack, support
from fedvemoe_app.em.scores import worth

SHARE = 0.1
"""Prior mass of the private expert: a bank that learned from many silos is the better guess.

It matters where tokens do not tell the two apart.
"""

LEAD = 1e-4
"""Nats per token by which it must lead the mixture, beside one standard error, to predict alone."""


def beside(log_lik: Tensor, private: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns [T, K + 1] and prior [K + 1] with the ``private`` column [T] as the last."""
    columns = torch.cat([log_lik, private.to(log_lik.dtype).unsqueeze(1)], dim=1)
    return columns, torch.cat([prior * (1.0 - SHARE), prior.new_tensor([SHARE])])


def predictive(log_lik: Tensor, prior: Tensor, *, floor: float, tau: float) -> Tensor:
    """Return the predictive weights [K + 1] of ``beside``'s columns; those below ``floor`` go."""
    dense = stack(log_lik, prior, tau=tau)
    kept = torch.where(support(dense, floor=floor, most=len(prior)), prior, 0.0)
    return stack(log_lik, kept / kept.sum(), tau=tau)


def edge(
    log_lik: Tensor, private: Tensor | None, owners: Tensor, prior: Tensor, k: int, *, tau: float
) -> float:
    """Return what expert ``k`` is worth to a silo that has its private expert, if any, beside."""
    if private is not None:
        log_lik, prior = beside(log_lik, private, prior)
    return worth(log_lik, owners, prior, k, tau=tau)
