"""The benchmark of a round goes through all its phases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.phases import PHASES
from benchmarks.round import benchmark
from fedvemoe_app import silo as silos
from fedvemoe_app.config import RunConfig


@pytest.fixture(scope="module")
def config(small_base: Path) -> Iterator[RunConfig]:
    """The embedded tasks in small pieces, on a small base."""
    yield RunConfig.from_flat(
        {
            "model-name": str(small_base),
            "device": "cpu",
            "seq-len": 24,
            "probe-tokens": 20,
            "eval-examples": 2,
            "generate-examples": 1,
            "max-new-tokens": 3,
            "local-steps": 2,
            "k-init": 2,
            "k-max": 3,
        }
    )
    for experts in silos._resident.values():
        experts.close()
    silos._resident.clear()


@pytest.mark.slow
def test_a_round_gives_a_table_and_json(config: RunConfig) -> None:
    console = Console(record=True, width=100)
    results = json.loads(json.dumps(benchmark(config, 1, console)))
    assert set(results["round"]["seconds"]) == set(PHASES)
    assert all(seconds > 0 for seconds in results["round"]["seconds"].values())
    assert "One round" in console.export_text()
