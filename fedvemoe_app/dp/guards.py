"""What a server makes of noised sums. Nothing here looks at a silo: it costs no privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedvemoe_app.dp.fields import bound_of

LEAST_WEIGHT = 1.0
"""The weight of one silo, below which a noised weight [K] divides no change."""


def guarded(sums: Mapping[str, Tensor], opened: Sequence[bool] | None) -> dict[str, Tensor]:
    """Return sums that a step can be taken with.

    Counts and masses are not negative. An expert that was not ``opened`` [K] holds noise alone
    and gets no weight; one that was gets a silo's at least, lest noise in a small denominator
    throw it about (method-details.md, 5.8).
    """
    found = {
        name: total.clamp(min=0.0) if bound_of(name).positive else total
        for name, total in sums.items()
    }
    if opened is not None and "weight" in found:
        floor = found["weight"].clamp(min=LEAST_WEIGHT)
        found["weight"] = torch.where(torch.tensor(opened), floor, 0.0)
    return found
