"""How the adapters get onto the base: PEFT puts stacked layers in place of the linear ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.model.quantisation import bits_of
from fedvemoe_app.model.stacked_layers import PLAIN
from fedvemoe_app.model.trunk import decoder_layers

ALL_LINEAR = "all-linear"


def adapter_name(slot: int) -> str:
    """Return the PEFT adapter name of a slot."""
    return f"slot_{slot:02d}"


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Return the LoRA layers of a base by module path."""
    return {path: part for path, part in model.named_modules() if isinstance(part, LoraLayer)}


def attach(
    model: nn.Module,
    slots: int,
    rank: int,
    alpha: float,
    target_modules: str | Sequence[str],
    first: int = 0,
) -> PeftModel:
    """Put ``slots`` adapters on the layers from ``first`` on, their weights still empty.

    Raises
    ------
    SettingError
        If the target modules do not exist or are not linear layers below the head.
    RunError
        If the base carries adapters already.
    """
    if lora_layers(model):
        raise RunError("this base model already carries experts: close them first")
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    if targets != ALL_LINEAR:
        _check_targets(model, targets)
    if first:
        targets = _from_layer(model, targets, first)
    peft = _first_adapter(model, _lora_config(model, rank, alpha, targets))
    for slot in range(1, slots):
        config = _lora_config(model, rank, alpha, targets)
        peft.add_adapter(adapter_name(slot), config, low_cpu_mem_usage=True)
    model.eval()  # new layers come in training mode
    return peft


def _first_adapter(model: Any, config: LoraConfig) -> PeftModel:
    """Wrap the base; empty weights draw no random numbers and fill no memory twice."""
    with warnings.catch_warnings():
        # PEFT asks transformers for a property under its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        return get_peft_model(model, config, adapter_name(0), low_cpu_mem_usage=True)


def _from_layer(model: nn.Module, targets: str | list[str], first: int) -> list[str]:
    """Return the paths of the target modules in the layers from ``first`` on."""
    inside = {part for layer in decoder_layers(model)[first:] for part in layer.modules()}
    found = [
        path
        for path, part in model.named_modules()
        if part in inside
        and isinstance(part, nn.Linear | Conv1D)
        and (targets == ALL_LINEAR or _matches(path, targets))
    ]
    if not found:
        raise SettingError("target-modules: none of them is in the upper half of the layers")
    return found


def _lora_config(model: nn.Module, rank: int, alpha: float, targets: str | list[str]) -> LoraConfig:
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    config._register_custom_module(_layer_types(model))
    return config


def _layer_types(model: nn.Module) -> dict[type[nn.Module], type[nn.Module]]:
    """Return what to register with PEFT: base layer type -> stacked layer type, first match wins.

    The quantised ones come first, for they are ``nn.Linear`` too.
    """
    if not bits_of(model):
        return dict(PLAIN)
    from fedvemoe_app.model.quantised_layers import QUANTISED

    return {**QUANTISED, **PLAIN}


def _check_targets(model: Any, targets: str | list[str]) -> None:
    wanted = [targets] if isinstance(targets, str) else targets
    linear = {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    }
    for target in wanted:
        one = targets if isinstance(targets, str) else [target]
        found = [path for path, _ in model.named_modules() if _matches(path, one)]
        wrong = next((path for path in found if path not in linear), None)
        if wrong or not found:
            known = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
            problem = f"is no linear layer below the head ({wrong})" if wrong else "does not exist"
            raise SettingError(
                f"target-modules: {target} {problem} in this base model, which has {known}: "
                f"name some of these, or {ALL_LINEAR}"
            )


def _matches(path: str, targets: str | list[str]) -> bool:
    """Say whether PEFT would take a module: its whole path is matched, or the end of it named."""
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith(f".{target}") for target in targets)


def zero_master(module: nn.Module, device: torch.device) -> nn.Parameter:
    """Give a factor of an adapter its float32 parameter, zero and frozen."""
    shape = module.get_parameter("weight").shape
    master = nn.Parameter(torch.zeros(shape, device=device), requires_grad=False)
    module.register_parameter("weight", master)
    return master


def home(device: torch.device) -> torch.device:
    """Return where an expert lives: with its layer, but on the CPU under a base without weights."""
    return torch.device("cpu") if device.type == "meta" else device
