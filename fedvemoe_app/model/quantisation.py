"""A base in 4 or 8 bits: how it is loaded, and what its layers need before they are used.

bitsandbytes is imported only for a base that is quantised.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from fedvemoe_app.errors import BaseModelError

Bits = Literal[0, 4, 8]
"""Bits of a weight in the linear layers below the head; 0: as many as the number format has."""
SETTING = {4: "use-4bit", 8: "use-8bit"}
_BLOCK = 64  # weights per NF4 quantisation block


def bits_of(model: Any) -> Bits:
    """Return in how many bits a model's linear layers are held."""
    if getattr(model, "is_loaded_in_4bit", False):
        return 4
    return 8 if getattr(model, "is_loaded_in_8bit", False) else 0


def saved_bits(config: Any) -> Bits:
    """Return in how many bits a base was saved, by its ``config``; loading it keeps them."""
    saved = getattr(config, "quantization_config", None) or {}
    if not isinstance(saved, dict):
        saved = saved.to_dict()
    if saved.get("load_in_4bit"):
        return 4
    return 8 if saved.get("load_in_8bit") else 0


def loading(bits: Bits, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return how to load a base in so many bits; BaseModelError where bitsandbytes is absent."""
    if find_spec("bitsandbytes") is None:
        raise BaseModelError(f"{SETTING[bits]} needs bitsandbytes: pip install -e '.[gpu]'")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def settle(model: Any, name: str) -> None:
    """Check the layers of a base that was loaded in 4 or 8 bits, and make them fit for experts.

    Raises
    ------
    BaseModelError
        If a layer has a width that its quantisation does not take.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    from fedvemoe_app.model.quantised_layers import Linear8bit

    for path, layer in list(model.named_modules()):
        if isinstance(layer, Linear8bitLt):
            Linear8bit.adopt(layer)
        elif isinstance(layer, Linear4bit):
            _require_whole_blocks(layer, f"{name}: {path}")
            # Otherwise an evaluation repacks the weights in place, and training after it gets
            # wrong gradients without an error.
            layer.support_avx512bf16_for_cpu = False


def _require_whole_blocks(layer: Any, where: str) -> None:
    if layer.in_features % _BLOCK:
        raise BaseModelError(
            f"{where} has {layer.in_features} inputs, not a multiple of {_BLOCK}: "
            "set use-4bit = false; use-8bit = true takes any width"
        )
