"""The M-step on one silo: a few optimiser steps of the active experts, each on its own tokens.

One stacked forward pass gives log p_k(y_t) for all experts; the token posterior
alpha_tk = softmax_k(log r_k + log p_k / gamma) weighs them. Expert k minimises
-sum_t alpha_tk log p_k(y_t) / sum_t alpha_tk. At gamma = 1 the numerator has the gradient of
the exact mixture loss -log sum_k r_k p_k; another gamma is the tempered objective.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.em.family import Fit
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.em.responsibilities import evidence
from fedvemoe_app.model.experts import Experts, Factor
from fedvemoe_app.model.head import Head, target_hidden, target_tokens

Optimizer = Literal["adamw", "sgd"]
# An expert with fewer tokens than this in a step has nothing to learn from it.
_FEWEST_TOKENS = 1e-6


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over target tokens: posterior [m], mixture loss in nats, count."""

    alpha: Tensor
    loss: Tensor
    tokens: int

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.alpha + other.alpha, self.loss + other.loss, self.tokens + other.tokens)


def fit(
    experts: Experts,
    batches: Iterator[Batch],
    slots: Sequence[int],
    weights: Tensor,
    *,
    factor: Factor,
    steps: int,
    learning_rate: float,
    row_cap: int,
    gamma: float = 1.0,
    max_grad_norm: float = 1.0,
    proximal: float = 0.0,
    optimizer: Optimizer = "adamw",
) -> Fit:
    """Train one factor of ``slots`` in place for ``steps`` batches.

    Parameters
    ----------
    weights
        [m], sums to 1: the silo's responsibilities over ``slots``.
    row_cap
        Largest number of token rows (sequences x padded length x experts) of one forward
        pass; a larger batch is accumulated in parts, which changes nothing but memory.
    max_grad_norm
        Bound on the gradient norm of each expert by itself.
    proximal
        FedProx's mu: adds mu/2 |theta - start|^2 to each expert's loss.

    Returns
    -------
    Fit
        ``delta`` float32 on the CPU, of the trained factor alone; ``mean_alpha`` [m] float64
        and ``loss`` (at gamma = 1, whatever ``gamma``) over all target tokens seen.
    """
    parameters = experts.train_factor(factor, slots)
    start = {name: [p.detach().clone() for p in stack] for name, stack in parameters.items()}
    update = _optimizer(optimizer, parameters, learning_rate)
    seen = _nothing(experts, len(slots))
    try:
        for batch in islice(batches, steps):
            step = _accumulate(experts, batch, slots, weights, gamma, row_cap)
            _normalise(parameters, step.alpha)
            _pull_back(parameters, start, proximal)
            _clip(parameters, max_grad_norm)
            update.step()
            update.zero_grad()
            seen = seen + step
    finally:
        experts.freeze()
    tokens = max(1, seen.tokens)
    return Fit(
        delta=_difference(parameters, start),
        mean_alpha=(seen.alpha / tokens).cpu(),
        loss=float(seen.loss) / tokens,
        tokens=seen.tokens,
    )


def b_gradient(
    experts: Experts, batches: Iterable[Batch], *, row_cap: int = 2**62
) -> dict[str, Tensor]:
    """Return the gradient of slot 0's loss with respect to its B tensors, at their values.

    The loss is the mean over all target tokens of ``batches``, nats per token. Tensors are
    [out, r], float32 on the CPU; the sketch start projects them.
    """
    parameters = experts.train_factor("B", [0])
    seen = _nothing(experts, 1)
    try:
        for batch in batches:
            seen = seen + _accumulate(experts, batch, [0], torch.ones(1), 1.0, row_cap)
        _normalise(parameters, seen.alpha)
        return {name: _gradient(stack[0]).cpu() for name, stack in parameters.items()}
    finally:
        experts.freeze()


def _nothing(experts: Experts, m: int) -> _Sums:
    zeros = torch.zeros(m + 1, dtype=torch.float64, device=experts.backbone.device)
    return _Sums(zeros[:m], zeros[m], 0)


def _accumulate(
    experts: Experts,
    batch: Batch,
    slots: Sequence[int],
    weights: Tensor,
    gamma: float,
    row_cap: int,
) -> _Sums:
    """Add the gradient of -sum_t alpha_tk log p_k, not yet normalised, to the parameters.

    Its normaliser sum_t alpha_tk is known only at the end; being linear, it can wait.
    """
    backbone = experts.backbone
    weights = weights.to(backbone.device, torch.float64)
    sequences, length = batch.input_ids.shape
    size = max(1, row_cap // (length * len(slots)))
    seen = _nothing(experts, len(slots))
    with experts.active(slots) as model, backbone.checkpointing():
        for first in range(0, sequences, size):
            input_ids = batch.input_ids[first : first + size].to(backbone.device)
            labels = batch.labels[first : first + size].to(backbone.device)
            hidden = target_hidden(model, input_ids, labels, len(slots))
            targets = target_tokens(labels)
            seen = seen + _backward(backbone.head, hidden, targets, weights, gamma)
    return seen


def _backward(head: Head, hidden: Tensor, targets: Tensor, weights: Tensor, gamma: float) -> _Sums:
    """Send the loss's gradient through the head in chunks, then through the base at once."""
    gradient = torch.empty_like(hidden)
    alpha = torch.zeros_like(weights)
    loss = torch.zeros_like(weights[0])
    for chunk in head.chunks(hidden):
        part = hidden[:, chunk].detach().requires_grad_(True)
        log_lik = head.log_lik(part, targets[chunk])  # [m, n]
        fixed = log_lik.detach().double().T
        posterior = token_posterior(fixed, weights, gamma=gamma)
        surrogate = -(posterior.T.to(log_lik.dtype) * log_lik).sum()
        (gradient[:, chunk],) = torch.autograd.grad(surrogate, part)
        alpha += posterior.sum(dim=0)
        loss -= evidence(fixed, weights).sum()
    torch.autograd.backward(hidden, gradient)
    return _Sums(alpha, loss, len(targets))


def _optimizer(
    kind: Optimizer, parameters: dict[str, list[nn.Parameter]], learning_rate: float
) -> torch.optim.Optimizer:
    chosen = [parameter for stack in parameters.values() for parameter in stack]
    if kind == "sgd":
        return torch.optim.SGD(chosen, lr=learning_rate)
    return torch.optim.AdamW(chosen, lr=learning_rate, weight_decay=0.0, fused=True)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _normalise(parameters: dict[str, list[nn.Parameter]], alpha: Tensor) -> None:
    """Divide each expert's gradient by its sum of token posteriors."""
    scales = [1 / tokens if tokens > _FEWEST_TOKENS else 0.0 for tokens in alpha.tolist()]
    for stack in parameters.values():
        for parameter, scale in zip(stack, scales, strict=True):
            parameter.grad = _gradient(parameter).mul_(scale)


def _pull_back(
    parameters: dict[str, list[nn.Parameter]], start: dict[str, list[Tensor]], proximal: float
) -> None:
    """Add the gradient of FedProx's proximal term."""
    if proximal == 0.0:
        return
    for name, stack in parameters.items():
        for parameter, origin in zip(stack, start[name], strict=True):
            _gradient(parameter).add_(parameter.detach() - origin, alpha=proximal)


def _clip(parameters: dict[str, list[nn.Parameter]], max_norm: float) -> None:
    """Clip each expert's gradient by itself: experts must not influence one another."""
    for expert in zip(*parameters.values(), strict=True):
        clip_grad_norm_(expert, max_norm)


def _difference(
    parameters: dict[str, list[nn.Parameter]], start: dict[str, list[Tensor]]
) -> dict[str, Tensor]:
    return {
        name: torch.stack(
            [
                parameter.detach() - origin
                for parameter, origin in zip(stack, start[name], strict=True)
            ]
        ).cpu()
        for name, stack in parameters.items()
    }
