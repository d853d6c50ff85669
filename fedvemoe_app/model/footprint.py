"""How much memory a silo's work takes, from the shape of its base: a model, checked by measurement.

It adds up what is held at the same time: weights, resident experts, what training keeps of them,
what the backward pass keeps of each token row (a padded token under one expert), what the widest
part of a layer has in flight, and a chunk of logits. ``benchmarks.compute`` shows it beside the
measured peaks (docs/results.md says how far they are apart).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedvemoe_app.model.head import ENTRIES_ACCELERATOR, ENTRIES_CPU

MASTER = 4
"""Bytes of an expert's parameter, float32."""
TRAINED = 4
"""Copies of it while it is trained: gradient, Adam's two moments, its value at the start."""
QUANTISED = {4: 0.52, 8: 1.01}
"""Bytes of a weight in so many bits, with its share of the block's scale."""
LOGITS = 12
"""Bytes of a logit in a chunk beside the head's own output: float32, its softmax, its gradient."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A base as memory sees it: numbers of weights, and widths in values.

    ``linear`` weights are those that can be quantised, ``other`` embeddings, norms and the head,
    ``widest`` the largest linear layer, ``sides`` inputs and outputs of all of them.
    """

    layers: int
    hidden: int
    inner: int
    key_value: int
    vocabulary: int
    linear: int
    other: int
    widest: int
    sides: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Read the shape off a model, loaded or a skeleton, with or without experts on it."""
        config = model.config.get_text_config()
        sizes = list(_linear(model))
        linear = [inputs * outputs for inputs, outputs in sizes]
        heads = config.num_attention_heads
        each = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            key_value=each * (getattr(config, "num_key_value_heads", None) or heads),
            vocabulary=model.get_output_embeddings().weight.shape[0],
            linear=sum(linear),
            other=_other(model),
            widest=max(linear),
            sides=sum(inputs + outputs for inputs, outputs in sizes),
        )

    def weights(self, value: float, bits: int = 0) -> float:
        """Return the bytes of the weights, ``value`` each; linear layers may have ``bits``."""
        return self.linear * QUANTISED.get(bits, value) + self.other * value


@dataclass(frozen=True, slots=True)
class Work:
    """What is done at once: ``rows`` token rows in one pass, ``trained`` of ``resident`` experts.

    ``value`` bytes of a weight or an activation; ``bits`` of a quantised weight, or 0; ``targets``
    of the rows whose logits are needed; no expert is trained in a probe. ``packed`` is the width
    of rows that hold several sequences, which need a mask; 0 where none do.
    """

    rows: int
    rank: int
    resident: int
    trained: int = 0
    value: float = 4.0
    bits: int = 0
    checkpointed: bool = False
    on_gpu: bool = False
    targets: int | None = None
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes held at the peak of some work."""

    weights: float
    experts: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.experts + self.activations + self.logits


def footprint(shape: Shape, work: Work) -> Footprint:
    """Return the peak of a training step where experts are trained, else of a probe."""
    expert = MASTER * work.rank * shape.sides
    per_row = (
        _kept(shape, work) + _in_flight(shape, work) if work.trained else _passing(shape, work)
    )
    dequantised = work.value * shape.widest if work.bits else 0.0
    targets = work.rows if work.targets is None else work.targets
    entries = ENTRIES_ACCELERATOR if work.on_gpu else ENTRIES_CPU
    logits = min(targets * shape.vocabulary, entries)
    return Footprint(
        weights=shape.weights(work.value, work.bits),
        experts=expert * (work.resident + TRAINED * work.trained),
        activations=work.rows * per_row + dequantised,
        logits=logits * ((LOGITS if work.trained else LOGITS - 4) + work.value),
    )


def _kept(shape: Shape, work: Work) -> float:
    """Return the bytes of a row that the forward pass leaves for the backward pass.

    With checkpointing these are the inputs of all layers, and one layer in full.
    """
    layer = _layer(shape, work.value) + _apart(shape, work)
    if work.checkpointed:
        return shape.layers * shape.hidden * work.value + layer
    return shape.layers * layer


def _layer(shape: Shape, value: float) -> float:
    """Two norms' inputs in float32, the experts' inputs, query, key, value, output, gated MLP."""
    attention = 5 * shape.hidden + 2 * shape.key_value
    return 8 * shape.hidden + value * (attention + 4 * shape.inner + 2 * shape.hidden)


def _apart(shape: Shape, work: Work) -> float:
    """Return what a layer holds beside for packed rows: masks, keys and values for all heads."""
    if not work.packed:
        return 0.0
    return work.packed * (1 + work.value) + 2 * work.value * (shape.hidden - shape.key_value)


def _in_flight(shape: Shape, work: Work) -> float:
    """Return the bytes of gradients in the widest part of a layer: those of the gated MLP."""
    return work.value * (3 * shape.inner + 2 * shape.hidden)


def _passing(shape: Shape, work: Work) -> float:
    """Return the bytes of a row that only passes through: the gated MLP and the residual."""
    widest = work.value * (3 * shape.inner + 2 * shape.hidden) + 4 * shape.hidden
    return widest + _apart(shape, work)


def _linear(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of each linear layer below the head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    for path, part in model.named_modules():
        if part is head or "lora_" in path:
            continue
        if isinstance(part, nn.Linear):
            yield part.in_features, part.out_features
        elif isinstance(part, Conv1D):
            yield part.weight.shape[0], part.weight.shape[1]


def _other(model: nn.Module) -> int:
    """Return the number of weights that are in no linear layer below the head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {
        part.weight
        for part in model.modules()
        if isinstance(part, nn.Linear | Conv1D) and part is not head
    }
    return sum(
        parameter.numel()
        for path, parameter in model.named_parameters()
        if parameter not in linear and "lora_" not in path
    )
