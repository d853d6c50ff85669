"""The estimate of a run's length against rounds of known seconds."""

from __future__ import annotations

import pytest

from fedvemoe_app.report.forecast import Forecast


def test_a_long_run_says_so_before_its_first_round() -> None:
    found = Forecast(10, 1).after(0, {"hello": 900.0, "assess": 390.0, "sketch": 50.0})
    assert found is not None
    assert found.seconds == pytest.approx(7800)
    assert found.words == "roughly 2 h 10 min for 10 rounds, judging by the first assessment"


def test_round_1_is_the_better_judge() -> None:
    forecast = Forecast(10, 1)
    forecast.after(0, {"assess": 390.0})
    found = forecast.after(1, {"train": 60.0, "assess": 40.0})
    assert found is not None
    assert found.words == "about 15 min 00 s for 9 rounds, judging by round 1"


def test_rounds_that_score_test_examples_take_longer_than_a_first_that_does_not() -> None:
    forecast = Forecast(10, 4)  # rounds 4, 8 and 10 score
    forecast.after(0, {"assess": 100.0})
    found = forecast.after(1, {"train": 50.0, "assess": 20.0})
    assert found is not None
    assert found.seconds == pytest.approx(9 * 70 + 3 * 80)


def test_where_nothing_is_left_or_measured_nothing_is_said() -> None:
    assert Forecast(1, 1).after(1, {"train": 5.0}) is None
    assert Forecast(5, 1).after(2, {"train": 5.0}) is None
    assert Forecast(5, 1).after(0, {}) is None
