"""The benchmark runs, compares equal work, and refuses to compare unequal work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.comparison import Case, compare, generation_case, probe_case, training_case
from benchmarks.peft_loop import PeftLoop
from benchmarks.phases import PHASES
from benchmarks.round import benchmark
from benchmarks.timing import Clock
from benchmarks.workload import long, random_experts, short
from fedvemoe_app import silo as silos
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.backbone import load_backbone

LONG = 40


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


@pytest.fixture
def loop_and_silo(config: RunConfig, tmp_path: Path) -> tuple[PeftLoop, silos.Silo]:
    """A silo whose experts are random, and plain PEFT adapters made from its files."""
    silo = silos.open_silo(config, 0, 12)
    experts = silo.family.experts
    experts.load(random_experts(experts, seed=0))
    folders = [tmp_path / str(slot) for slot in range(experts.slots)]
    for slot, folder in enumerate(folders):
        experts.save(slot, folder)
    return PeftLoop(load_backbone(config.model.model_name, device="cpu"), folders), silo


def cases(loop: PeftLoop, silo: silos.Silo) -> list[Case]:
    family = silo.family
    return [
        probe_case(family, loop, short(silo), 3),
        probe_case(family, loop, long(silo, LONG), 2),
        training_case(family, loop, short(silo), 1),
        training_case(family, loop, short(silo), 2),
        training_case(family, loop, long(silo, LONG), 2, one_pass=True),
        generation_case(family, loop, short(silo), 1, max_new_tokens=4),
    ]


def test_both_ways_give_the_same_numbers(loop_and_silo: tuple[PeftLoop, silos.Silo]) -> None:
    for case in cases(*loop_and_silo):
        assert case.disagreement is not None
        assert case.disagreement() <= case.limit, case.name


def test_other_experts_are_not_equal_work(loop_and_silo: tuple[PeftLoop, silos.Silo]) -> None:
    loop, silo = loop_and_silo
    experts = silo.family.experts
    experts.load(random_experts(experts, seed=1))
    for case in cases(loop, silo)[:-1]:  # other experts may well give the same answers
        with pytest.raises(RunError, match=f"{case.name}: .* differ by"):
            compare([case], 1, Clock(torch.device("cpu")))


@pytest.mark.slow
def test_a_run_gives_tables_and_json(config: RunConfig) -> None:
    console = Console(record=True, width=100)
    results = json.loads(json.dumps(benchmark(config, 1, 1, LONG, console)))
    assert set(results["round"]["seconds"]) == set(PHASES)
    assert all(row["speed_up_min"] > 0 for row in results["comparison"])
    assert {row["experts"] for row in results["comparison"] if row["phase"] == "probe"} == {3}
    assert "training m=2 short 1 pass" in console.export_text()
