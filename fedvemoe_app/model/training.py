"""The M-step on one silo: a few optimiser steps of the active experts, each on its own tokens.

Expert k minimises -sum_t alpha_tk log p_k(y_t) / sum_t alpha_tk, with the posteriors alpha of
``model.objective``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.em.family import Fit
from fedvemoe_app.model.advice import advice
from fedvemoe_app.model.experts import Experts, Factor
from fedvemoe_app.model.objective import Posterior, Sums, accumulate, nothing

Optimizer = Literal["adamw", "sgd"]
# An expert with fewer tokens than this in a step has nothing to learn from it.
_FEWEST_TOKENS = 1e-6


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
    anchor: Mapping[str, Tensor] | None = None,
    posterior: Posterior = "token",
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
    anchor
        Tensors [m, ...] that ``proximal`` pulls to in place of the start (Ditto's).
    posterior
        Whether each token or each whole example draws its expert.

    Returns
    -------
    Fit
        ``delta`` float32 on the CPU, of the trained factor alone; ``mean_alpha`` [m] float64
        and ``loss`` (at gamma = 1, whatever ``gamma``) over all target tokens seen.
    """
    parameters = experts.train_factor(factor, slots)
    start = {name: [p.detach().clone() for p in stack] for name, stack in parameters.items()}
    pulled_to = start if anchor is None else _placed(anchor, parameters)
    update = _optimizer(optimizer, parameters, learning_rate)
    seen = nothing(experts, len(slots))
    try:
        for batch in islice(batches, steps):
            step = _with_room(
                experts,
                [batch],
                len(slots),
                partial(accumulate, experts, batch, slots, weights, gamma, posterior=posterior),
                row_cap=row_cap,
                undo=update.zero_grad,
            )
            _normalise(parameters, step.alpha)
            _pull_back(parameters, pulled_to, proximal)
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


def _with_room(
    experts: Experts,
    batches: Sequence[Batch],
    m: int,
    step: Callable[[int], Sums],
    *,
    row_cap: int,
    undo: Callable[[], None],
) -> Sums:
    """Return what ``step`` adds up over ``batches``, in the passes that memory has room for."""
    length = max((batch.input_ids.shape[1] for batch in batches), default=1)
    return experts.backbone.room.redo(
        step,
        row_cap=row_cap,
        rows=m * sum(batch.input_ids.numel() for batch in batches),
        least=length,
        undo=undo,
        advice=partial(advice, experts, length, m),
    )


def b_gradient(
    experts: Experts, batches: Sequence[Batch], *, row_cap: int = 2**62
) -> dict[str, Tensor]:
    """Return the gradient of slot 0's loss with respect to its B tensors, at their values.

    The loss is the mean over all target tokens of ``batches``, nats per token. Tensors are
    [out, r], float32 on the CPU; the sketch start projects them.
    """
    parameters = experts.train_factor("B", [0])

    def undo() -> None:
        for (parameter,) in parameters.values():
            parameter.grad = None

    def all_batches(cap: int) -> Sums:
        seen = nothing(experts, 1)
        for batch in batches:
            seen = seen + accumulate(experts, batch, [0], torch.ones(1), 1.0, cap)
        return seen

    try:
        seen = _with_room(experts, batches, 1, all_batches, row_cap=row_cap, undo=undo)
        _normalise(parameters, seen.alpha)
        return {name: _gradient(stack[0]).cpu() for name, stack in parameters.items()}
    finally:
        experts.freeze()


def _placed(
    anchor: Mapping[str, Tensor], parameters: dict[str, list[nn.Parameter]]
) -> dict[str, list[Tensor]]:
    return {
        name: [one.to(stack[0].device) for one in anchor[name]]
        for name, stack in parameters.items()
    }


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
