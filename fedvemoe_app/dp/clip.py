"""Clipping: one silo's arrays as one vector of bounded norm, in whole units of a grid.

Values are cut towards zero onto the grid after they were scaled, so the norm of the integers is
never above the bound: no rounding error can raise the sensitivity (McMahan et al. 2018 clip over
all layers at once; the integers are those of Kairouz et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.errors import RunError

_BELOW_ONE = 1.0 - 2.0**-30
"""Room for the rounding errors of a norm."""

Reals = NDArray[np.float64]
Units = NDArray[np.int64]


def norm_of(arrays: Sequence[Reals]) -> float:
    """Return the Euclidean norm of arrays as one vector."""
    return math.sqrt(sum(float(np.dot(array.ravel(), array.ravel())) for array in arrays))


def clipped(arrays: Sequence[Reals], bound: float) -> list[Reals]:
    """Return the arrays, scaled together so that their norm as one vector is at most ``bound``.

    Raises
    ------
    RunError
        For numbers that are not finite: no scale makes them harmless.
    """
    norm = norm_of(arrays)
    if not math.isfinite(norm):
        raise RunError("its numbers are not finite, or too large: nothing leaves this silo")
    if norm <= bound * _BELOW_ONE:
        return list(arrays)
    factor = bound / norm * _BELOW_ONE
    return [array * factor for array in arrays]


def in_units(values: Reals, step: float) -> Units:
    """Return ``values / step``, cut towards zero: no entry grows."""
    return np.trunc(values / step).astype(np.int64)
