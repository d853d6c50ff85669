"""Fixed point: real numbers as two's complement words that add without a modulo.

A silo sends q with |q| <= qmax = floor((2^(bits-1) - 1) / n_max), so the sum of n_max silos cannot
leave the word. Zero stays zero. What one unit stands for, the step, is public and chosen from
sums of the round before.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.masks import CHUNK_BYTES, Stream, Words, scratch

STATISTICS_STEP = 2.0**-24
"""What one unit of the statistics lane stands for, unless its field says otherwise."""

COMPACT_MAX_SILOS = 16
_DITHER = np.dtype("<u2")
_SPLIT = 2**16
"""Parts of a step that one dither tells apart."""
_CHUNK = CHUNK_BYTES // 8
_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Ring:
    """Words of ``bits`` (16, 32 or 64) that hold a sum of up to ``n_max`` silos."""

    bits: int
    n_max: int

    def __post_init__(self) -> None:
        if self.bits not in (16, 32, 64):
            raise SettingError(f"ring width {self.bits}: choose 16, 32 or 64 bits")
        if self.n_max < 1 or self.qmax < 1:
            raise SettingError(f"n_max {self.n_max} does not fit {self.bits} bits: choose fewer")
        if self.bits == 16 and self.n_max > COMPACT_MAX_SILOS:
            raise SettingError(
                f"n_max {self.n_max} is too many for 16 bits: "
                f"use 32 bits above {COMPACT_MAX_SILOS} silos"
            )

    @property
    def qmax(self) -> int:
        """The largest integer one silo may send: n_max * qmax < 2^(bits - 1)."""
        return ((1 << (self.bits - 1)) - 1) // self.n_max

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned words, little-endian, in which wrap-around is defined."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def real(self) -> np.dtype[Any]:
        """Floats to round in: float32 has ten bits to spare for |q| < 2^14, which is 16 bits."""
        return np.dtype(np.float32 if self.bits == 16 else np.float64)

    def signed(self, words: Words) -> NDArray[Any]:
        """Return the same memory as two's complement integers."""
        return words.view(f"<i{self.bits // 8}")

    def values(self, words: Words) -> NDArray[Any]:
        """Return memory for what ``words`` stand for: float64 for 64 bits, float32 for fewer.

        It is that of the words where both have one size.
        """
        real = np.dtype(np.float64 if self.bits == 64 else np.float32)
        return words.view(real) if real.itemsize == words.itemsize else np.empty(len(words), real)

    def step(self, rms: float, kappa: float) -> float:
        """Return the step at which ``kappa`` root mean squares are the largest value."""
        return kappa * rms / self.qmax


def round_stochastic(
    values: NDArray[Any], step: float, ring: Ring, dither: Stream, out: Words
) -> None:
    """Write ``floor(values / step + u)``, u uniform in (0, 1), clipped to +-qmax, to ``out``.

    ``values [n]`` float32 or float64, ``out [n]`` words of ``ring``. Unbiased for values within
    range: u has 16 bits and is centred, so a step is split to 2^-17. Raises SecAggRefusal for
    values that are not finite. The stream moves by 2 bytes per value, however values are cut.
    """
    buffer = scratch()
    work, noise = _workspace(ring.real)
    target = ring.signed(out)
    for start in range(0, len(values), _CHUNK):
        source = values[start : start + _CHUNK]
        q, u = work[: len(source)], noise[: len(source)]
        within = _largest(source) <= (ring.qmax - 1) * step
        dither.fill(buffer, len(source) * _DITHER.itemsize)
        _scale(source, _SPLIT / step, q)
        np.copyto(u, np.frombuffer(buffer, _DITHER, len(source)))
        u += 0.5  # all in parts of a step: the dither need not be scaled
        q += u
        q *= 1 / _SPLIT
        np.floor(q, out=q)
        if not within:
            np.clip(q, -ring.qmax, ring.qmax, out=q)
        np.copyto(target[start : start + len(source)], q, casting="unsafe")


def _workspace(real: np.dtype[Any]) -> NDArray[Any]:
    """Return this thread's two rows of a chunk's numbers: touching fresh memory costs more."""
    if not hasattr(_thread, "memory"):
        _thread.memory = np.empty(2 * _CHUNK)
    memory: NDArray[Any] = _thread.memory
    return memory.view(real)[: 2 * _CHUNK].reshape(2, _CHUNK)


def scale(words: NDArray[Any], step: float, out: NDArray[Any]) -> None:
    """Write ``words`` [n], signed, times ``step`` to ``out``, which may be the same memory."""
    products = _workspace(np.dtype(np.float64))[0]
    for start in range(0, len(words), _CHUNK):
        part = slice(start, start + _CHUNK)
        product = products[: len(words[part])]
        np.multiply(words[part], step, out=product)
        np.copyto(out[part], product, casting="same_kind")


def _largest(values: NDArray[Any]) -> float:
    """Return the largest size among ``values``, of which there are some; refuse what is none."""
    low, high = float(values.min()), float(values.max())  # either is NaN where one value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SecAggRefusal("numbers that are not finite (NaN or infinite) are never sent")
    return max(-low, high)


def _scale(values: NDArray[Any], factor: float, out: NDArray[Any]) -> None:
    """Write ``values`` times ``factor`` to ``out``; beyond float32 is beyond qmax, too."""
    with np.errstate(over="ignore"):
        if values.dtype == out.dtype:
            np.multiply(values, factor, out=out)
        else:  # NumPy casts faster than it multiplies two types
            np.copyto(out, values, casting="same_kind")
            out *= factor


def round_exact(values: NDArray[Any], step: float, ring: Ring, out: Words) -> None:
    """Write ``values / step``, rounded to the nearest, to ``out``; never clipped.

    Raises SecAggRefusal for values that are not finite or beyond qmax.
    """
    q = np.rint(values.astype(np.float64) / step)
    limit = np.nextafter(float(ring.qmax), 0.0)  # qmax itself may have no float64
    if not (np.abs(q) <= limit).all():
        raise SecAggRefusal(
            f"statistics must be finite and within +-{ring.qmax * step:.4g}: "
            "a larger step for this field admits larger numbers"
        )
    ring.signed(out)[:] = q.astype(np.int64)
