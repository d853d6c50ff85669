"""The arithmetic floor: how long the products alone would take at this machine's best rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import Clock
from fedvemoe_app.data.batches import Batch
from fedvemoe_app.model.footprint import Shape

SIDE = {"cpu": 1024, "cuda": 8192}
REPEATS = 7


@dataclass(frozen=True, slots=True)
class Machine:
    """The largest rate of a matrix product that was measured, in operations a second."""

    rate: float

    @classmethod
    def measured(cls, clock: Clock, dtype: torch.dtype) -> Machine:
        """Time square products in the precision of the model."""
        side = SIDE.get(clock.device.type, SIDE["cuda"])
        one, other = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
        product = torch.empty_like(one)
        seconds = [clock.seconds(lambda: torch.mm(one, other, out=product)) for _ in range(REPEATS)]
        return cls(2 * side**3 / min(seconds))


def flops(model: Any, batches: Sequence[Batch], experts: int, targets: int) -> float:
    """Return the operations of a forward pass; a backward pass to the inputs takes as many.

    Products of all rows with the base's weights, of queries with keys and of their weights with
    values (causal: half of them), of target rows with the head. The experts' own are not counted.
    """
    shape = Shape.of(model)
    sizes = [batch.input_ids.shape for batch in batches]
    rows = experts * sum(sequences * length for sequences, length in sizes)
    pairs = experts * sum(sequences * length**2 / 2 for sequences, length in sizes)
    attention = 4 * pairs * shape.hidden * shape.layers
    return 2 * rows * shape.linear + attention + 2 * targets * shape.hidden * shape.vocabulary
