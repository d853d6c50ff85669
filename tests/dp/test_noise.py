"""Noise: whole numbers of a Gaussian law, from a stream of bytes and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedvemoe_app.dp.noise import LARGEST, Bits, gaussian_units, grid_step


def bits(seed: int) -> Bits:
    generator = np.random.default_rng(seed)
    return lambda size: bytearray(generator.bytes(size))


@pytest.mark.parametrize("deviation", [0.7, 40.0, 3e6])
def test_draws_follow_the_rounded_gaussian_law(deviation: float) -> None:
    draws = gaussian_units(100_001, deviation, bits(1))
    assert draws.dtype == np.int64
    assert abs(draws.mean()) < 5 * deviation / math.sqrt(len(draws))
    rounded = math.sqrt(deviation**2 + 1 / 12)  # rounding adds the variance of a uniform law
    assert draws.std() == pytest.approx(rounded, rel=0.02)
    if deviation > 1:
        spread = draws + np.random.default_rng(2).uniform(-0.5, 0.5, len(draws))
        assert stats.kstest(spread / deviation, "norm").pvalue > 1e-3


def test_draws_of_one_stream_do_not_hang_together() -> None:
    draws = gaussian_units(1 << 16, 1000.0, bits(3)).astype(float)
    for lag in (1, 2, 1 << 14, 1 << 15):  # the two halves of a pair lie 2^14 apart
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 0.03
        assert abs(np.corrcoef(draws[:-lag] ** 2, draws[lag:] ** 2)[0, 1]) < 0.03


@pytest.mark.parametrize("fill", [0, 255])
def test_the_extremes_of_the_stream_stay_finite_and_within_the_promised_range(fill: int) -> None:
    def same(size: int) -> bytearray:
        return bytearray([fill] * size)

    draws = gaussian_units(10, 1e6, same)
    assert np.abs(draws).max() <= LARGEST * 1e6


def test_the_same_bytes_give_the_same_noise_and_odd_sizes_are_whole() -> None:
    odd: Callable[[], list[int]] = lambda: gaussian_units(7, 50.0, bits(4)).tolist()  # noqa: E731
    assert odd() == odd()
    assert len(odd()) == 7


@pytest.mark.parametrize("deviation", [1e-7, 0.3, 1.0, 900.0])
def test_a_grid_is_a_power_of_two_far_below_the_noise(deviation: float) -> None:
    step = grid_step(deviation)
    assert math.log2(step) % 1 == 0
    assert 2**20 <= deviation / step <= 2**21
