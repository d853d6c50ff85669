"""The mixture's loss on one batch, and its gradient for every active expert.

One stacked forward pass gives log p_k(y_t) for all experts; the token posterior
alpha_tk = softmax_k(log r_k + log p_k / gamma) weighs them. At gamma = 1 the gradient of
-sum_t alpha_tk log p_k(y_t), alpha held fixed, is that of the exact mixture loss
-log sum_k r_k p_k; another gamma is the tempered objective. With one latent expert for a whole
example (FedEM) the posterior is that of the example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.data.packing import passes
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.em.responsibilities import evidence
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.head import Head, target_owners, target_tokens

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
    seen = nothing(experts, len(slots))
    for rows in passes(batch.widths, row_cap // len(slots)):
        pieces = _Pieces(experts, batch.part(rows), tuple(slots))
        drawn = pieces.owners if posterior == "sequence" else None
        group = backbone.room.experts(pieces.batch.input_ids.shape[1], len(slots))
        if group < len(slots):
            seen = seen + pieces.in_groups(group, weights, gamma, drawn)
        else:
            seen = seen + pieces.together(weights, gamma, drawn)
    return seen


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Some sequences [B, T] under some experts: what goes through the base in one pass, or few."""

    experts: Experts
    batch: Batch
    slots: tuple[int, ...]

    @property
    def targets(self) -> Tensor:
        """The N target tokens."""
        return target_tokens(self.batch.labels).to(self.experts.backbone.device)

    @property
    def owners(self) -> Tensor:
        """The examples [N] that the target tokens belong to."""
        return target_owners(self.batch).to(self.experts.backbone.device)

    @contextmanager
    def _hidden(self) -> Iterator[Tensor]:
        """Give the targets' last hidden states [m, N, H]; a backward pass belongs inside."""
        experts = self.experts
        with (
            experts.backbone.checkpointing(),
            experts.hidden(self.slots, self.batch) as hidden,
        ):
            yield hidden

    def together(self, weights: Tensor, gamma: float, rows: Tensor | None) -> Sums:
        """Train all experts in one pass.

        ``rows`` [N] are the examples that tokens belong to, where an example has one expert.
        """
        head, targets = self.experts.backbone.head, self.targets
        with self._hidden() as hidden:
            if rows is None:
                return _backward(head, hidden, targets, _by_token(weights, gamma))
            log_lik = head.token_log_lik(hidden.detach(), targets)
            known, loss = _known(log_lik, weights, gamma, rows)
            return _backward(head, hidden, targets, _as_known(known, loss))

    def in_groups(self, size: int, weights: Tensor, gamma: float, rows: Tensor | None) -> Sums:
        """Train ``size`` experts at a time, where all together do not fit.

        The posterior needs every expert's likelihood first: one more forward pass.
        """
        groups = [self.slots[n : n + size] for n in range(0, len(self.slots), size)]
        parts = [replace(self, slots=group) for group in groups]
        known, loss = _known(torch.cat([p.log_lik() for p in parts], dim=1), weights, gamma, rows)
        shares = torch.split(known, [len(group) for group in groups], dim=1)
        found = [part.given(share) for part, share in zip(parts, shares, strict=True)]
        return Sums(torch.cat([sums.alpha for sums in found]), loss, found[0].tokens)

    @torch.no_grad()
    def log_lik(self) -> Tensor:
        """Return log p_k(y_t) [N, m], float64 nats."""
        with self._hidden() as hidden:
            return self.experts.backbone.head.token_log_lik(hidden, self.targets)

    def given(self, posterior: Tensor) -> Sums:
        """Train with a ``posterior`` [N, m] that is known; the loss is not told."""
        head, targets = self.experts.backbone.head, self.targets
        with self._hidden() as hidden:
            return _backward(head, hidden, targets, _as_known(posterior, posterior.new_zeros(())))


Judge = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Takes log p_k(y_t) [n, m] of a chunk; returns its posterior [n, m] and its loss in nats."""


def _by_token(weights: Tensor, gamma: float) -> Judge:
    """Judge each token by itself."""
    return lambda log_lik, _: (
        token_posterior(log_lik, weights, gamma=gamma),
        -evidence(log_lik, weights).sum(),
    )


def _as_known(posterior: Tensor, loss: Tensor) -> Judge:
    """Judge as was found before for all N tokens; the whole loss counts with the first."""
    return lambda _, chunk: (posterior[chunk], loss if chunk.start == 0 else 0.0 * loss)


def _known(
    log_lik: Tensor, weights: Tensor, gamma: float, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return each token's posterior [N, m] and the loss in nats.

    With ``rows`` a token's posterior is that of its whole example.
    """
    if rows is None:
        return _by_token(weights, gamma)(log_lik, slice(0, None))
    examples = log_lik.new_zeros(int(rows.max()) + 1, len(weights)).index_add(0, rows, log_lik)
    posterior, loss = _by_token(weights, gamma)(examples, slice(0, None))
    return posterior[rows], loss


def _backward(head: Head, hidden: Tensor, targets: Tensor, judge: Judge) -> Sums:
    """Send the loss's gradient through the head in chunks, then through the base at once."""
    gradient = torch.empty_like(hidden)
    alpha = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    loss = torch.zeros_like(alpha[0])
    for chunk in head.chunks(hidden):
        part = hidden[:, chunk].detach().requires_grad_(True)
        log_lik = head.log_lik(part, targets[chunk])  # [m, n]
        posterior, nats = judge(log_lik.detach().double().T, chunk)
        surrogate = -(posterior.T.to(log_lik.dtype) * log_lik).sum()
        (gradient[:, chunk],) = torch.autograd.grad(surrogate, part)
        alpha += posterior.sum(dim=0)
        loss += nats
    torch.autograd.backward(hidden, gradient)
    return Sums(alpha, loss, len(targets))
