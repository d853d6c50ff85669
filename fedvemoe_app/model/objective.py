"""The mixture's loss on one batch, and its gradient for every active expert.

One stacked forward pass gives log p_k(y_t) for all experts; the token posterior
alpha_tk = softmax_k(log r_k + log p_k / gamma) weighs them. At gamma = 1 the gradient of
-sum_t alpha_tk log p_k(y_t), alpha held fixed, is that of the exact mixture loss
-log sum_k r_k p_k; another gamma is the tempered objective. With one latent expert for a whole
example (FedEM) the posterior is that of the example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.em.responsibilities import evidence
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.head import Head, is_target, target_hidden, target_tokens

Posterior = Literal["token", "sequence"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over target tokens: posterior [m], mixture loss in nats, count."""

    alpha: Tensor
    loss: Tensor
    tokens: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.alpha + other.alpha, self.loss + other.loss, self.tokens + other.tokens)


def nothing(experts: Experts, m: int) -> Sums:
    """Return sums over no token, for ``m`` experts."""
    zeros = torch.zeros(m + 1, dtype=torch.float64, device=experts.backbone.device)
    return Sums(zeros[:m], zeros[m], 0)


def accumulate(
    experts: Experts,
    batch: Batch,
    slots: Sequence[int],
    weights: Tensor,
    gamma: float,
    row_cap: int,
    posterior: Posterior = "token",
) -> Sums:
    """Add the gradient of -sum_t alpha_tk log p_k, not yet normalised, to the parameters.

    Its normaliser sum_t alpha_tk is known only at the end; being linear, it can wait.
    """
    backbone = experts.backbone
    weights = weights.to(backbone.device, torch.float64)
    sequences, length = batch.input_ids.shape
    size = max(1, row_cap // (length * len(slots)))
    seen = nothing(experts, len(slots))
    with experts.active(slots) as model, backbone.checkpointing():
        for first in range(0, sequences, size):
            input_ids = batch.input_ids[first : first + size].to(backbone.device)
            labels = batch.labels[first : first + size].to(backbone.device)
            hidden = target_hidden(model, input_ids, labels, len(slots))
            targets = target_tokens(labels)
            rows = is_target(labels).nonzero()[:, 0] if posterior == "sequence" else None
            seen = seen + _backward(backbone.head, hidden, targets, weights, gamma, rows)
    return seen


def _backward(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    gamma: float,
    rows: Tensor | None,
) -> Sums:
    """Send the loss's gradient through the head in chunks, then through the base at once.

    ``rows`` [N] are the examples that tokens belong to, where an example has one expert.
    """
    gradient = torch.empty_like(hidden)
    alpha = torch.zeros_like(weights)
    loss = torch.zeros_like(weights[0])
    known = None
    if rows is not None:
        known, loss = _of_sequences(head, hidden, targets, weights, gamma, rows)
    for chunk in head.chunks(hidden):
        part = hidden[:, chunk].detach().requires_grad_(True)
        log_lik = head.log_lik(part, targets[chunk])  # [m, n]
        fixed = log_lik.detach().double().T
        if known is None:
            posterior = token_posterior(fixed, weights, gamma=gamma)
            loss -= evidence(fixed, weights).sum()
        else:
            posterior = known[chunk]
        surrogate = -(posterior.T.to(log_lik.dtype) * log_lik).sum()
        (gradient[:, chunk],) = torch.autograd.grad(surrogate, part)
        alpha += posterior.sum(dim=0)
    torch.autograd.backward(hidden, gradient)
    return Sums(alpha, loss, len(targets))


@torch.no_grad()
def _of_sequences(
    head: Head, hidden: Tensor, targets: Tensor, weights: Tensor, gamma: float, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each token's posterior [N, m], that of its whole example, and the loss in nats."""
    parts = [head.log_lik(hidden[:, chunk], targets[chunk]) for chunk in head.chunks(hidden)]
    tokens = torch.cat(parts, dim=1).double().T
    examples = tokens.new_zeros(int(rows.max()) + 1, len(weights)).index_add(0, rows, tokens)
    posterior = token_posterior(examples, weights, gamma=gamma)
    return posterior[rows], -evidence(examples, weights).sum()
