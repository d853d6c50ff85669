"""The benchmark measures both ways on one case and knows when a sum is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.secagg import error_of_sums, mask_stream, measure
from benchmarks.secagg_case import Case, Stopwatch
from benchmarks.secagg_ours import OurRound


def test_a_case_gives_a_row_per_ring_with_bytes_and_ratios() -> None:
    rows = measure(Case(values=1000, silos=4, dropouts=1), repeats=1)
    assert [row["bits"] for row in rows] == [32, 16]
    for row in rows:
        assert row["bytes_per_value"] == pytest.approx(row["bits"] / 8, rel=0.01)
        assert row["flower_bytes_per_value"] == pytest.approx(8, rel=0.2)
        assert all(ratio > 0 for ratio in row["ratios"].values())


def test_a_wrong_sum_stops_the_benchmark() -> None:
    """A scale far too small clips every value."""
    vectors = np.ones(100, np.float32)
    with pytest.raises(AssertionError):
        OurRound(Case(100, 3, 0), 32, vectors, rms=1e-9).run(Stopwatch())


def test_errors_of_sums_are_small_where_the_scale_is_right() -> None:
    normal, small, *_ = error_of_sums(silos=3, values=2000)
    assert normal["flower"] < 1e-2
    assert all(row["32 bit x1"] < 1e-5 for row in (normal, small))


def test_the_stream_has_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.secagg.STREAM_BYTES", 2**22)
    monkeypatch.setattr("benchmarks.secagg._openssl_speed", lambda: None)
    found = mask_stream()
    assert found["gigabytes_per_second"] > 0
    assert found["share"] is None
