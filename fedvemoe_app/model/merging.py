"""One expert merged into its base: a plain transformers folder that needs no adapter."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import load_tokenizer


def merge_expert(base: str, adapter: Path, output: Path) -> None:
    """Write ``W + scaling * B A`` for every adapted layer, in the number format of the base.

    The base is loaded whole, never quantised: rounding the sum to 4 or 8 bits would lose much of
    the expert.

    Raises
    ------
    BaseModelError
        If the base cannot be loaded.
    """
    tokenizer = load_tokenizer(base)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{base} cannot be loaded as a causal model ({error})") from error
    with warnings.catch_warnings():
        # PEFT asks transformers for a property under its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        adapted = PeftModel.from_pretrained(model, str(adapter))
    merged = adapted.merge_and_unload()
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
