"""The stacked layer over a 4-bit base; importing this module imports bitsandbytes."""

from __future__ import annotations

from peft.tuners.lora.bnb import Linear4bit

from fedvemoe_app.model.stacked_layers import StackedLora


class StackedLinear4bit(StackedLora, Linear4bit):
    """PEFT's LoRA layer over bitsandbytes' ``Linear4bit``, for stacked experts."""
