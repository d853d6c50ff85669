"""Layers whose weights bitsandbytes holds in 4 or 8 bits; importing this module imports it.

An 8-bit weight is the one that LLM.int8 makes, but its product is not bitsandbytes' own, which
rounds the activations to 8 bits too: there a row depends on the others of its pass (a column with
one large value is taken out of the rounding for all of them), every input is kept for the backward
pass even where activations are recomputed, and all goes through float16. docs/results.md has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from peft.tuners.lora import bnb
from torch import Tensor, nn

from fedvemoe_app.model.stacked_layers import StackedLora

LEVELS = 127
"""The largest 8-bit weight; a row's scale is the absolute value that it stands for."""


class Linear8bit(Linear8bitLt):
    """bitsandbytes' layer with its product in the number format of the activations."""

    @classmethod
    def adopt(cls, layer: Any) -> None:
        """Make one of a loaded layer, in place; weight and scales are taken over as they are."""
        if layer.weight.CB is not None:
            layer.init_8bit_state()
        layer.__class__ = cls

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b`` [..., out] of ``x`` [..., in]."""
        product: Tensor = _Product.apply(x, self.state.CB, self.state.SCB, self.bias)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """``x W^T + b`` of a frozen W [out, in], which is made from 8 bits in each direction anew.

    Nothing of x is kept, for its own gradient does not need it; and not W, which would be a
    second base in full.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return nn.functional.linear(x, _dequantised(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return gradient @ _dequantised(weight, scale, gradient.dtype), None, None, None


def _dequantised(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return W [out, in] of 8-bit ``weight`` [out, in] and float32 ``scale`` [out]."""
    return weight.to(dtype).mul_(scale.unsqueeze(1) / LEVELS)


class StackedLinear8bit(StackedLora, bnb.Linear8bitLt):
    """PEFT's LoRA layer over bitsandbytes' ``Linear8bitLt``, for stacked experts."""


class StackedLinear4bit(StackedLora, bnb.Linear4bit):
    """PEFT's LoRA layer over bitsandbytes' ``Linear4bit``, for stacked experts."""


QUANTISED: Mapping[type[nn.Module], type[nn.Module]] = {
    Linear4bit: StackedLinear4bit,
    Linear8bitLt: StackedLinear8bit,
}
"""Base layer type -> stacked layer type."""
