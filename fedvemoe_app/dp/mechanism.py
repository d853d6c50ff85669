"""The Gaussian mechanism on one silo's upload: two groups, each clipped as one vector and noised.

*Vectors* are the large tensors; responsibilities lie on a simplex, so the norm of a silo's changes
of all experts together does not grow with their number (method-details.md, 5.8). *Statistics* are
all else, each field in units of its declared bound. A sum of both is one Gaussian mechanism of
multiplier z: 1/z^2 is divided between the groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app.dp.clip import Reals, clipped, in_units
from fedvemoe_app.dp.fields import Groups, bound_of
from fedvemoe_app.dp.noise import LARGEST, Bits, gaussian_units, grid_step
from fedvemoe_app.errors import RunError

LEAST_UNITS = 32.0
"""Deviations below this many units of a grid are refused: sums of rounded noise stay Gaussian."""

STATISTICS_GRID = 2.0**-24
"""The finest grid of statistics: what a secure sum resolves."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What one silo adds.

    ``clip`` and ``statistics_clip`` bound the two groups' norms; ``noise`` is z, the multiplier of
    a whole sum; ``share`` is the statistics' part of 1/z^2 where vectors go along; ``silos`` share
    the noise of a sum (1: each adds all of it).
    """

    clip: float
    statistics_clip: float
    noise: float
    share: float
    silos: int = 1

    def vector_deviation(self, statistics: bool) -> float:
        """Return the deviation of one silo's noise on vectors."""
        share = self.share if statistics else 0.0
        return self.clip * self.noise / math.sqrt((1.0 - share) * self.silos)

    def statistics_deviation(self, vectors: bool) -> float:
        """Return the deviation of one silo's noise on statistics, in units of their bounds."""
        share = self.share if vectors else 1.0
        return self.statistics_clip * self.noise / math.sqrt(share * self.silos)

    def vector_step(self, most: int) -> float:
        """Return the smallest power of two of which ``most`` hold one silo's noised value."""
        bound = self.clip + LARGEST * self.vector_deviation(statistics=True)
        return 2.0 ** math.ceil(math.log2(bound / most))

    def release(
        self, arrays: Mapping[str, Tensor], groups: Groups, step: float, bits: Bits
    ) -> dict[str, Tensor]:
        """Return the arrays as they may leave, float64, in the order in which they came.

        ``step`` is the grid of vectors, ``bits`` the secret stream. Each value is exact in
        float64 and a multiple of its grid, so nothing later rounds it.

        Raises
        ------
        RunError
            For numbers that are not finite, and for a grid too coarse for the noise.
        """
        given = {name: array.to(torch.float64).numpy() for name, array in arrays.items()}
        noised = {name: given[name] for name in groups.exact}
        noised |= {name: np.zeros_like(given[name]) for name in groups.withheld}
        noised |= self._vectors(given, groups, step, bits)
        noised |= self._statistics(given, groups, bits)
        return {name: torch.from_numpy(np.asarray(noised[name])) for name in arrays}

    def _vectors(
        self, given: Mapping[str, Reals], groups: Groups, step: float, bits: Bits
    ) -> dict[str, Reals]:
        if not groups.vectors:
            return {}
        deviation = self.vector_deviation(bool(groups.statistics))
        if not 0.0 < step <= deviation / LEAST_UNITS or math.log2(step) % 1:
            raise RunError(f"a grid of {step:g} does not fit noise of deviation {deviation:g}")
        bounded = clipped([given[name] for name in groups.vectors], self.clip)
        return dict(zip(groups.vectors, _noised(bounded, deviation, step, bits), strict=True))

    def _statistics(
        self, given: Mapping[str, Reals], groups: Groups, bits: Bits
    ) -> dict[str, Reals]:
        if not groups.statistics:
            return {}
        deviation = self.statistics_deviation(bool(groups.vectors))
        step = max(STATISTICS_GRID, grid_step(deviation))
        if step > deviation / LEAST_UNITS:
            raise RunError("too little noise on statistics: raise dp-noise or dp-statistics-clip")
        norms = {name: bound_of(name).norm for name in groups.statistics}
        scaled = [clipped([given[name] / norm], 1.0)[0] for name, norm in norms.items()]
        found = _noised(clipped(scaled, self.statistics_clip), deviation, step, bits)
        return {n: array * norm for (n, norm), array in zip(norms.items(), found, strict=True)}


def _noised(arrays: Sequence[Reals], deviation: float, step: float, bits: Bits) -> list[Reals]:
    """Return arrays on the grid of ``step``, with noise of ``deviation`` added unit by unit."""
    noised = []
    for array in arrays:
        units = in_units(array, step)
        noise = gaussian_units(units.size, deviation / step, bits).reshape(units.shape)
        noised.append((units + noise).astype(np.float64) * step)
    return noised
