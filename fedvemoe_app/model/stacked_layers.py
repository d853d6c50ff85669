"""Linear layers that apply m LoRA experts at once: one base product, two grouped products.

Rows come expert-major: the first 1/m of them belong to the first selected expert, and so on.
The base weight is read once for all rows. Each class is the PEFT layer of the same base type
with another ``forward``, so parameters, names and files stay PEFT's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(slots=True)
class Selection:
    """The adapters that the rows of the next forward pass belong to; all layers share one.

    ``kept`` holds the stacked factors (A, B) of each layer over many passes in which no expert
    changes; None stacks them anew in every pass, as training must. ``spread``, ``below`` and
    ``seen`` are for the layers below the first expert (``model.trunk``).
    """

    adapters: tuple[str, ...] = ()
    kept: dict[StackedLora, tuple[Tensor, Tensor]] | None = None
    spread: int = 0
    below: Tensor | None = None
    seen: Tensor | None = None

    @contextmanager
    def replaced(self, other: Selection) -> Iterator[None]:
        """Take the fields of ``other`` for a while; all layers hold this one object."""
        before = replace(self)
        self._take(other)
        try:
            yield
        finally:
            self._take(before)

    def _take(self, other: Selection) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(other, field.name))


class StackedLora:
    """``forward`` over expert-major rows; with nothing selected, the frozen base alone."""

    selection: Selection
    base_layer: nn.Module
    lora_A: nn.ModuleDict  # noqa: N815
    lora_B: nn.ModuleDict  # noqa: N815
    scaling: dict[str, float]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``base(x) + scaling * B_k A_k x`` for rows ``x [m*B, ..., in]``."""
        result = self.base_layer(x, *args, **kwargs)
        adapters = self.selection.adapters
        return _add_experts(self, adapters, x, result) if adapters else result


def _add_experts(layer: StackedLora, adapters: tuple[str, ...], x: Tensor, base: Tensor) -> Tensor:
    experts = len(adapters)
    if x.shape[0] % experts:
        raise ValueError(f"{x.shape[0]} rows cannot be shared out evenly among {experts} experts")
    A, B = _factors(layer, adapters, x.dtype)
    low_rank = torch.bmm(x.reshape(experts, -1, x.shape[-1]), A.mT)  # [m, rows, r]
    grouped = base.reshape(experts, -1, base.shape[-1])  # [m, rows, out]
    scaling = layer.scaling[adapters[0]]
    # Not in place under autograd: a 4-bit layer's output is a view that may not be written to.
    add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
    return add(grouped, low_rank, B.mT, alpha=scaling).view(base.shape)


def _factors(
    layer: StackedLora, adapters: tuple[str, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return A [m, r, in] and B [m, out, r], cast down to the activations, not these up to them."""
    kept = layer.selection.kept
    found = kept.get(layer) if kept is not None else None
    if found is None:
        A, B = (_stack(factors, adapters).to(dtype) for factors in (layer.lora_A, layer.lora_B))
        found = (A, B)
        if kept is not None:
            kept[layer] = found
    return found


def _stack(factors: nn.ModuleDict, adapters: tuple[str, ...]) -> Tensor:
    return torch.stack([factors[adapter].get_parameter("weight") for adapter in adapters])


class StackedLinear(StackedLora, lora.Linear):
    """PEFT's LoRA layer over ``nn.Linear`` or GPT-2's ``Conv1D``, for stacked experts."""


PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: StackedLinear, Conv1D: StackedLinear}
"""Base layer type -> stacked layer type."""
