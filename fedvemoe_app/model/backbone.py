"""The frozen base model: loading, freezing, one resident per process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.hub import cached_file

from fedvemoe_app.errors import BaseModelError, SettingError
from fedvemoe_app.model.fingerprint import fingerprint
from fedvemoe_app.model.head import Head, check_head
from fedvemoe_app.model.quantisation import Bits, bits_of, loading, settle
from fedvemoe_app.model.room import Room, free_memory

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A causal language model that is never trained, in eval mode, and what belongs to it.

    ``fingerprint`` is the same for every dtype and quantisation. ``checkpointed`` says
    whether training recomputes activations to save memory (see ``checkpointing``). ``room`` is
    what a pass may hold beside it.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    device: torch.device
    checkpointed: bool = False
    room: Room = field(default_factory=Room)

    @property
    def head(self) -> Head:
        """The output layer."""
        return Head.of(self.model)

    @property
    def bits(self) -> Bits:
        """Bits of a quantised weight, or 0."""
        return bits_of(self.model)

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Recompute layers in the backward pass, where the backbone was loaded to do so.

        Only the layer wrappers enter training mode: dropout inside them stays off. The
        reentrant form is silently wrong with stacked experts, so it is never used.
        """
        layers = _checkpointable(self.model) if self.checkpointed else []
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False


def load_backbone(
    name_or_folder: str,
    *,
    dtype: Dtype = "auto",
    bits: Bits = 0,
    gradient_checkpointing: bool = False,
    device: str = "auto",
) -> Backbone:
    """Load a base from the hub or a folder, frozen.

    Parameters
    ----------
    dtype
        Of weights and activations. "auto": float32 on a CPU, bfloat16 on an accelerator and
        wherever the base is quantised.
    bits
        4: NF4 with double quantisation; 8: integers with a scale for each row, as LLM.int8 makes
        them (both bitsandbytes). Either computes in ``dtype``.

    Raises
    ------
    BaseModelError
        If the base is unknown, has no EOS token, cannot be quantised or checkpointed, or
        bitsandbytes is absent.
    SettingError
        If this machine does not have the ``device``.
    """
    require_device(device)
    place = torch.device(_device_name(device))
    kind = _resolve_dtype(dtype, place, bits)
    folder = base_folder(name_or_folder)
    tokenizer = load_tokenizer(name_or_folder)
    model = _load_model(name_or_folder, kind, bits, place)
    _settle_padding(model, tokenizer, name_or_folder)
    if bits_of(model):  # asked for here, or the way the base was saved
        settle(model, name_or_folder)
    model.requires_grad_(False).eval()
    # The base's own sampling defaults (temperature, penalties) are no part of our decoding.
    model.generation_config = GenerationConfig(
        eos_token_id=_stop_tokens(model, tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    if gradient_checkpointing and not _checkpointable(model):
        raise BaseModelError(f"{name_or_folder} does not support gradient checkpointing")
    check_head(model, name_or_folder)
    return Backbone(
        name_or_folder, model, tokenizer, fingerprint(folder), place, gradient_checkpointing
    )


def gpus_here() -> int:
    """Return how many GPUs torch can use on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_device(device: str) -> bool:
    """Whether this machine has a ``device``, which is auto, cpu, cuda or cuda:N."""
    return not device.startswith("cuda") or int(device.partition(":")[2] or 0) < gpus_here()


def require_device(device: str) -> None:
    """Refuse a GPU that this machine does not have."""
    if not has_device(device):
        raise SettingError(
            f'device = "{device}": torch sees {gpus_here()} GPUs here; use auto or cpu, '
            "and see fedvemoe doctor"
        )


def _device_name(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _resolve_dtype(dtype: Dtype, device: torch.device, bits: Bits) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if bits or device.type != "cpu" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def base_folder(name: str) -> Path:
    """Return the local folder that holds the base's files, downloading the config if needed."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BaseModelError(f"{name} is no base model: config.json is missing")
    if name.startswith((".", "/", "~")) and not folder.exists():
        raise BaseModelError(
            f"{name}: no such folder; set model-name to a base's folder, a hub name or builtin:tiny"
        )
    try:
        return Path(str(cached_file(name, "config.json"))).parent
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{name} is neither a folder nor a model that this machine can get from the hub: "
            "check name and network, or download it elsewhere and set model-name to its folder "
            f"({error})"
        ) from error


def load_tokenizer(name: str) -> Any:
    """Return a base's tokenizer, with a pad token; BaseModelError where it has none to end with."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name} has no tokenizer that can be loaded ({error})") from error
    if tokenizer.eos_token_id is None:
        raise BaseModelError(f"the tokenizer of {name} has no EOS token: answers could not end")
    return tokenizer


def _settle_padding(model: Any, tokenizer: Any, name: str) -> None:
    """Pad with EOS where the tokenizer has no padding token, or one the base has not learned."""
    known = model.get_input_embeddings().weight.shape[0]
    if tokenizer.eos_token_id >= known:
        raise BaseModelError(
            f"{name}: EOS is token {tokenizer.eos_token_id}, but the base has only {known} "
            "embeddings: base and tokenizer do not belong together"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= known:
        tokenizer.pad_token = tokenizer.eos_token


def _load_model(name: str, dtype: torch.dtype, bits: Bits, device: torch.device) -> Any:
    # Weights in a pickle are code: a base without safetensors is refused.
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "use_safetensors": True}
    if bits:
        options["quantization_config"] = loading(bits, dtype)
    try:
        return AutoModelForCausalLM.from_pretrained(name, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise BaseModelError(f"{name} cannot be loaded as a causal model ({error})") from error


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer: the tokenizer's EOS and the base's own."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else own if isinstance(own, list) else [own]
    return sorted({tokenizer.eos_token_id, *own})


def _checkpointable(model: Any) -> list[Any]:
    return [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]


_resident: dict[tuple[Any, ...], Backbone] = {}


def resident(name: str, **options: Any) -> Backbone:
    """Return the process's one loaded base; asking for another frees it first.

    Takes ``load_backbone``'s arguments. Whoever holds experts on the old base must close
    them and drop them before the memory is free.
    """
    key = (name, *sorted(options.items()))
    if key not in _resident:
        _resident.clear()
        free_memory()
        _resident[key] = load_backbone(name, **options)
    return _resident[key]
