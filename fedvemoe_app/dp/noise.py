"""Gaussian noise in whole units of a grid, from a stream of secret bytes.

Noise that is added in floating point betrays the value by its last bits (Mironov 2012). Here value
and noise are both integers: each draw is rounded to a whole number first, and for an integer q
round(q + g) = q + round(g), so an upload is exactly a function of the value plus real noise.
What is left is the draw itself: Box and Muller (1958) in float64 on uniforms of 53 bits, which
ends at 8.57 deviations, beyond which a normal variable falls with probability 1e-17.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bits = Callable[[int], bytearray]
"""Returns that many fresh, secret, uniform bytes."""

LARGEST = 9.0
"""No draw is larger than this many deviations."""

_CHUNK = 1 << 15


def gaussian_units(size: int, deviation: float, bits: Bits) -> NDArray[np.int64]:
    """Return ``size`` rounded draws of N(0, ``deviation``^2), in units; 8 bytes of stream each."""
    units = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = units[start : start + _CHUNK]
        part[:] = np.rint(deviation * _normal(len(part), bits)).astype(np.int64)
    return units


def _normal(size: int, bits: Bits) -> NDArray[np.float64]:
    """Return standard normal draws [size]."""
    pairs = (size + 1) // 2
    words = np.frombuffer(bits(16 * pairs), dtype="<u8") >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((words[:pairs] + np.uint64(1)) * 2.0**-53))
    angle = words[pairs:] * (2.0 * math.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def grid_step(deviation: float) -> float:
    """Return a power of two, 2^-21 to 2^-20 deviations: far finer than the noise on it."""
    return 2.0 ** (math.floor(math.log2(deviation)) - 20)
