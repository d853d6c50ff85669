"""Bases with random weights from a configuration alone: sizes up to 7B, nothing to download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.quantisation import Bits, settle

SIZES: Mapping[str, tuple[int, int, int, int, int, int]] = {
    "nano": (64, 2, 4, 2, 128, 256),
    "tiny": (128, 3, 4, 4, 256, 1024),
    "small": (256, 6, 4, 4, 768, 2048),
    "medium": (512, 8, 8, 2, 1536, 32000),
    "0.5b": (896, 24, 14, 2, 4864, 151936),
    "7b": (3584, 28, 28, 4, 18944, 152064),
}
"""Hidden size, layers, heads, key-value heads, inner size, vocabulary; 0.5b and 7b are Qwen2.5."""
EOS = 0
SEED = 0


def random_backbone(
    size: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    bits: Bits = 0,
    checkpointed: bool = False,
) -> Backbone:
    """Return a base of ``size`` with the same random weights on every call."""
    hidden, layers, heads, key_value, inner, vocabulary = SIZES[size]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        intermediate_size=inner,
        max_position_embeddings=32768,
        tie_word_embeddings=hidden < 1024,
        initializer_range=hidden**-0.5,  # wide enough that experts and tokens differ
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if bits:
        quantise(model, bits, device, dtype)
    model.requires_grad_(False).eval()
    model.generation_config = GenerationConfig(eos_token_id=[EOS], pad_token_id=EOS)
    return Backbone(size, model, _tokenizer(), f"random {size}", device, checkpointed)


def quantise(model: Any, bits: Bits, device: torch.device, dtype: torch.dtype) -> None:
    """Quantise all linear layers but the head, as loading a checkpoint does."""
    head = model.get_output_embeddings()
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            new = _in_4_bits(layer, dtype) if bits == 4 else _in_8_bits(layer)
            new.weight = new.weight.to(device)
            new.bias = layer.bias
            model.set_submodule(path, new)
    setattr(model, f"is_loaded_in_{bits}bit", True)
    settle(model, "random weights")


def _in_4_bits(layer: nn.Linear, dtype: torch.dtype) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit

    options: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4"}
    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new = Linear4bit(*shape, compute_dtype=dtype, device="meta", **options)  # type: ignore[no-untyped-call]
    new.weight = Params4bit(layer.weight.data, requires_grad=False, **options)
    return new


def _in_8_bits(layer: nn.Linear) -> Any:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new = Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, device="meta")
    # Weights are quantised on their way from the CPU, and stay as they are on any other.
    new.weight = Int8Params(layer.weight.data.cpu(), requires_grad=False)
    return new


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that does no more than to pad."""
    words = Tokenizer(WordLevel({"<eos>": EOS}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
