"""Epsilon against what is known in closed form for Gaussian mechanisms without sampling."""

from __future__ import annotations

import math
import sys

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedvemoe_app.config_groups.dp import DpSettings
from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.sums.epsilon import Spending


def spent(noise: float, sums: int, delta: float = 1e-5) -> float:
    spending = Spending(DpSettings(dp="central", dp_noise=noise, dp_delta=delta), 12)
    return [spending.spend() for _ in range(sums)][-1]


def exact(noise: float, sums: int, delta: float = 1e-5) -> float:
    """Balle and Wang 2018: sums of equal multiplier are one Gaussian mechanism, exactly."""
    mu = math.sqrt(sums) / noise

    def excess(epsilon: float) -> float:
        upper, lower = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(norm.cdf(upper) - math.exp(epsilon + norm.logcdf(lower)) - delta)

    return float(brentq(excess, 0.0, 1e4))


def by_zcdp(noise: float, sums: int, delta: float = 1e-5) -> float:
    """Bun and Steinke 2016: an upper bound that every accountant should meet."""
    rho = sums / (2 * noise**2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@pytest.mark.parametrize(("noise", "sums"), [(1.0, 1), (2.0, 21), (10.0, 21), (0.5, 5), (40.0, 3)])
def test_epsilon_lies_closely_above_the_exact_figure(noise: float, sums: int) -> None:
    least = exact(noise, sums)
    assert least <= spent(noise, sums) <= min(1.25 * least, by_zcdp(noise, sums))


def test_epsilon_grows_with_rounds_and_falls_with_noise_and_delta() -> None:
    by_sums = [spent(3.0, sums) for sums in (1, 2, 5, 20)]
    by_noise = [spent(noise, 5) for noise in (8.0, 4.0, 2.0, 1.0)]
    by_delta = [spent(3.0, 5, delta) for delta in (1e-3, 1e-5, 1e-7)]
    for figures in (by_sums, by_noise, by_delta):
        assert figures == sorted(set(figures))


def test_a_missing_library_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(SettingError, match=r"pip install -e '\.\[dp\]', or set dp = off"):
        Spending(DpSettings(dp="local"), 3)
