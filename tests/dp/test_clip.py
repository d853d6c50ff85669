"""Clipping: the norm is never above the bound, in whole units, and the direction stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvemoe_app.dp.clip import clipped, in_units, norm_of
from fedvemoe_app.errors import RunError


@given(
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=40),
    bound=st.floats(1e-3, 1e3),
    power=st.integers(-30, -8),
)
def test_no_numbers_exceed_the_bound_not_even_by_rounding(
    values: list[float], bound: float, power: int
) -> None:
    step = 2.0**power * bound
    cut = len(values) // 2
    parts = [np.array(values[:cut]), np.array(values[cut:])]
    units = [in_units(part, step) for part in clipped(parts, bound)]
    squares = sum(int(q) ** 2 for part in units for q in part)  # exact: Python's integers
    assert squares <= (bound / step) ** 2


def test_the_direction_is_kept_over_all_arrays_together() -> None:
    one, other = np.array([3.0, 0.0]), np.array([[4.0]])
    found = clipped([one, other], 1.0)
    assert norm_of(found) == pytest.approx(1.0, abs=1e-8)
    assert found[0].tolist() == pytest.approx([0.6, 0.0])
    assert found[1].tolist() == [pytest.approx([0.8])]


def test_what_is_within_the_bound_is_left_alone() -> None:
    given_ = [np.array([0.3, -0.4]), np.array([[0.5]])]
    for before, after in zip(given_, clipped(given_, 1.0), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_numbers_without_a_norm_never_leave(bad: float) -> None:
    with pytest.raises(RunError, match="nothing leaves this silo"), np.errstate(over="ignore"):
        clipped([np.array([1.0, bad])], 1.0)


def test_cutting_to_the_grid_never_grows_a_value() -> None:
    values = np.array([-1.999, -0.4, 0.0, 0.7, 1.999])
    assert in_units(values, 0.5).tolist() == [-3, 0, 0, 1, 3]
