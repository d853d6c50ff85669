"""One expert as a standard PEFT adapter folder: adapter_config.json, adapter_model.safetensors.

Tensors are called ``<module path>.A`` [r, in] and ``<module path>.B`` [out, r] here, and
``base_model.model.<module path>.lora_A.weight`` in the file, as PEFT names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedvemoe_app.errors import RunError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


def write_adapter(folder: Path | str, config: PeftConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write one adapter that plain ``PeftModel.from_pretrained`` reads; RunError if that fails."""
    folder = Path(folder)
    weights = {_file_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} cannot be written ({error}): free some space there") from error


def read_adapter(folder: Path | str) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read a plain LoRA adapter.

    Raises
    ------
    RunError
        If a file is missing or damaged, or the adapter is not plain LoRA over linear layers.
    """
    folder = Path(folder)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise RunError(f"{file} is missing: {folder} is not a PEFT adapter folder")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
    except (ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise RunError(f"{folder}: an adapter file is damaged ({error}); restore it") from error
    _refuse_variants(folder, config)
    return config, {_tensor_name(folder, key): tensor for key, tensor in weights.items()}


def _refuse_variants(folder: Path, config: LoraConfig) -> None:
    patterns = config.rank_pattern or config.alpha_pattern
    if patterns or config.use_rslora or config.use_dora or config.lora_bias:
        raise RunError(f"{folder / CONFIG}: only plain LoRA with one rank and one alpha is read")


def _file_name(name: str) -> str:
    path, _, factor = name.rpartition(".")
    return f"{_PREFIX}{path}.lora_{factor}.weight"


def _tensor_name(folder: Path, key: str) -> str:
    for factor in ("A", "B"):
        ending = f".lora_{factor}.weight"
        if key.startswith(_PREFIX) and key.endswith(ending):
            return f"{key[len(_PREFIX) : -len(ending)]}.{factor}"
    raise RunError(f"{folder / WEIGHTS}: tensor {key} is no LoRA factor of a linear layer")
