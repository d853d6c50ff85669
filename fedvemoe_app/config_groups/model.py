"""The settings of the frozen base and of an expert's shape on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fedvemoe_app.settings import listed, setting


def device_fault(device: str) -> str:
    """Return why ``device`` is the name of none; "" where it is one, here or elsewhere."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        return ""
    return f'device = "{device}": must be auto, cpu, cuda or cuda:N'


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The frozen base and the shape of an expert on it."""

    model_name: str = setting(
        "builtin:tiny", "base model: a hub name, a local folder, or builtin:tiny (built once)"
    )
    base_model: str = setting("", "another name for model-name; leave empty to use model-name")
    dtype: str = setting(
        "auto",
        "number format of the base and its activations; auto is float32 on a CPU, else bfloat16, "
        "and bfloat16 for a quantised base",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    use_4bit: bool = setting(False, "quantise the base to 4-bit NF4 with bitsandbytes (QLoRA)")
    use_8bit: bool = setting(
        False, "quantise the base to 8 bits instead: twice the memory of 4 bits, less rounding"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    device: str = setting("auto", "auto | cpu | cuda | cuda:N; auto is a GPU where there is one")
    torch_threads: int = setting(0, "CPU threads of a silo's process; 0 leaves torch's own", low=0)
    lora_rank: int = setting(8, "rank r of an expert", low=1)
    lora_alpha: float = setting(16.0, "LoRA scale; products BA are scaled by alpha / r", low=1e-6)
    target_modules: str = setting(
        "all-linear", "modules that get experts: all-linear, or names separated by commas"
    )
    adapter_layers: str = setting(
        "all",
        "layers that get experts; with upper, probes and training run the lower half once for all",
        choices=("all", "upper"),
    )

    @property
    def bits(self) -> Literal[0, 4, 8]:
        """Bits of a weight of the base, 0 where it is not quantised."""
        return 4 if self.use_4bit else 8 if self.use_8bit else 0

    @property
    def targets(self) -> str | tuple[str, ...]:
        """The target modules in the form PEFT takes."""
        names = listed(self.target_modules)
        return names[0] if names == ("all-linear",) else names
