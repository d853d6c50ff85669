"""Fixed point: sums fit, zero stays zero, rounding is unbiased, bad numbers never leave.

Removed by hand, each turned a test here red: the division by n_max in qmax; the clip, at either end
and next to it; the check for numbers that are not finite, in either lane; the dither; its centring;
the range check of statistics; the limit of 16-bit rings.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.masks import Keystream
from fedvemoe_app.secagg.ring import STATISTICS_STEP, Ring, round_exact, round_stochastic


def rounded(values: NDArray[np.generic], step: float, ring: Ring) -> NDArray[np.int64]:
    out = np.zeros(values.size, ring.dtype)
    round_stochastic(values, step, ring, Keystream(b"a dither's key.."), out)
    return ring.signed(out).astype(np.int64)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("n_max", [3, 10, 16])
def test_extremes_of_all_silos_do_not_overflow(bits: int, n_max: int) -> None:
    ring = Ring(bits, n_max)
    assert n_max * ring.qmax < 2 ** (bits - 1)
    for extreme in (ring.qmax, -ring.qmax):
        words = np.zeros(1, ring.dtype)
        for _ in range(n_max):
            words += np.array([extreme]).astype(ring.dtype)
        assert ring.signed(words)[0] == n_max * extreme


@pytest.mark.parametrize("bits", [16, 32])
def test_values_out_of_range_are_clipped(bits: int) -> None:
    ring = Ring(bits, 10)
    for size in (1e300, 3.4e38, 1e30, ring.qmax * 1.01, ring.qmax + 1.0):
        for sign in (1, -1):
            alone = np.array([0.0, sign * size, 0.0])
            assert rounded(alone, 1.0, ring).tolist() == [0, sign * ring.qmax, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_and_whole_steps_are_exact(dtype: type) -> None:
    for ring in (Ring(32, 10), Ring(16, 10)):
        largest = min(ring.qmax, 2**20)
        values = np.append(np.arange(-largest, largest + 1, max(1, largest // 5000)), 0)
        assert (rounded((values * 0.5).astype(dtype), 0.5, ring) == values).all()


@pytest.mark.parametrize("bits", [16, 32])
def test_rounding_is_unbiased(bits: int) -> None:
    """The mean of many roundings lies within 5 standard errors, anywhere within a step."""
    count = 200_000
    for fraction in (0.0001, 0.25, 0.5, 0.9):
        mean = rounded(np.full(count, 41.0 + fraction), 1.0, Ring(bits, 10)).mean() - 41.0
        error = np.sqrt(fraction * (1 - fraction) / count)
        assert abs(mean - fraction) < 5 * error


@pytest.mark.parametrize("bits", [16, 32])
def test_rounding_is_symmetric_to_a_part_of_the_dither(bits: int) -> None:
    """Means over a fine grid of fractions: an uncentred dither would shift them by 2^-17."""
    ring = Ring(bits, 10)
    out = np.zeros(2**16, ring.dtype)

    class Ladder:
        """Every 16-bit number once."""

        def fill(self, buffer: bytearray, size: int) -> None:
            start = getattr(self, "at", 0)
            buffer[:size] = np.arange(start, start + size // 2).astype("<u2").tobytes()
            self.at = start + size // 2

    shifts = []
    for part in (0.0, 0.3, 0.7):
        round_stochastic(np.full(2**16, part * 2**-16), 1.0, ring, Ladder(), out)
        shifts.append(ring.signed(out).astype(np.int64).sum() - part)
    assert abs(np.mean(shifts)) < 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 40_000, 99_999])
def test_numbers_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    values = np.zeros(100_000, np.float32)
    values[place] = bad
    with pytest.raises(SecAggRefusal, match="not finite"):
        rounded(values, 1.0, Ring(32, 10))
    with pytest.raises(SecAggRefusal, match="must be finite"):
        round_exact(values, 1.0, Ring(64, 10), np.zeros(100_000, "<u8"))


def test_dither_does_not_depend_on_how_values_are_cut() -> None:
    values = np.random.default_rng(0).standard_normal(100_001)
    ring, dither = Ring(32, 10), Keystream(b"a dither's key..")
    cut = np.zeros(values.size, ring.dtype)
    for part in (slice(0, 7), slice(7, 70_000), slice(70_000, None)):
        round_stochastic(values[part], 0.3, ring, dither, cut[part])
    assert (ring.signed(cut) == rounded(values, 0.3, ring)).all()


def test_statistics_are_exact_and_never_clipped() -> None:
    ring, out = Ring(64, 100), np.zeros(3, "<u8")
    values = np.array([1.0, -(2.0**20) - 2.0**-24, 0.1])
    round_exact(values, STATISTICS_STEP, ring, out)
    decoded = ring.signed(out) * STATISTICS_STEP
    assert (decoded[:2] == values[:2]).all()
    assert abs(decoded[2] - 0.1) <= STATISTICS_STEP / 2
    for beyond in (
        ring.qmax * STATISTICS_STEP * 1.001,
        -ring.qmax * STATISTICS_STEP * 1.001,
        1e300,
    ):
        with pytest.raises(SecAggRefusal, match="larger step"):
            round_exact(np.array([0.0, beyond, 0.0]), STATISTICS_STEP, ring, out)


def test_largest_statistics_of_all_silos_fit() -> None:
    """The float next to qmax may lie above it; no silo can send it then."""
    for n_max in range(3, 40):
        ring, out = Ring(64, n_max), np.zeros(1, "<u8")
        for largest in (float(ring.qmax), np.nextafter(float(ring.qmax), 0.0)):
            try:
                round_exact(np.array([largest]), 1.0, ring, out)
            except SecAggRefusal:
                assert largest == float(ring.qmax)
            assert n_max * int(ring.signed(out)[0]) < 2**63


@pytest.mark.parametrize(
    ("bits", "n_max", "kappa", "worst"),
    [(32, 10, 256, 4e-5), (32, 100, 256, 4e-4), (16, 10, 32, 0.03)],
)
@pytest.mark.parametrize("guess", [0.25, 1.0, 4.0])
def test_error_of_a_sum(bits: int, n_max: int, kappa: float, worst: float, guess: float) -> None:
    """Relative error of a sum of normal updates, with a scale up to 4 times wrong."""
    ring = Ring(bits, n_max)
    rng = np.random.default_rng(1)
    step = ring.step(0.01 * guess, kappa)
    exact, summed = np.zeros(20_000), np.zeros(20_000)
    dither = Keystream(b"a dither's key..")
    for _ in range(n_max):
        values = rng.standard_normal(20_000) * 0.01
        out = np.zeros(20_000, ring.dtype)
        round_stochastic(values, step, ring, dither, out)
        exact += values
        summed += ring.signed(out) * step
    assert np.linalg.norm(summed - exact) / np.linalg.norm(exact) < worst * max(guess, 1.0)


@pytest.mark.parametrize(
    ("bits", "n_max", "says"),
    [
        (8, 3, "choose 16, 32 or 64"),
        (16, 17, "use 32 bits"),
        (32, 2**31, "choose fewer"),
        (32, 0, "choose fewer"),
    ],
)
def test_rings_that_could_overflow_are_refused(bits: int, n_max: int, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Ring(bits, n_max)
