"""The benchmark of scale runs a real server over silos in another process, and tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import Cost, measured, table

TENSORS = ["k-init=3", "k-max=3", "lora-rank=32", "message-mb=4"]


def words(base: Path) -> list[str]:
    return [f"model-name={base}", *TENSORS]


def test_a_small_case_has_the_bytes_of_every_silo(small_base: Path) -> None:
    cost = measured(4, 1, words(small_base))
    assert cost.silos == 4
    assert cost.server_seconds > 0
    assert cost.silo_seconds > 0
    assert cost.up_mb == pytest.approx(4 * cost.payload_mb)
    assert cost.payload_mb > 1
    assert cost.down_mb > 4 * 1


@pytest.mark.slow
def test_the_server_holds_one_sum_and_not_one_of_each_silo(small_base: Path) -> None:
    """Of sixteen uploads more it holds as many at once as one message may carry."""
    few, many = (measured(silos, 1, words(small_base)) for silos in (4, 20))
    more_sent = many.up_mb - few.up_mb
    assert more_sent > 12 * few.payload_mb
    assert many.peak_mb - few.peak_mb < more_sent / 3


def test_the_table_has_a_row_per_size() -> None:
    cost = Cost(5, 1.0, 0.5, 30.0, 2.0, 10.0, 11.0)
    assert table([cost, cost]).row_count == 2
