"""The comparison runs, compares equal work, and refuses to compare unequal work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import eight_bits, gpu_check
from benchmarks.comparison import Case, compare, generation_case, probe_case, training_case
from benchmarks.compute import WAYS, Plan, measured
from benchmarks.floor import Machine, flops
from benchmarks.peft_loop import PeftLoop
from benchmarks.sizes import random_backbone
from benchmarks.timing import Clock
from benchmarks.workload import random_experts, target_rows, workload
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.experts import Experts
from tests.model import tiny

CPU = torch.device("cpu")
WORK = workload(256, 12, sequences=2, probed=1)


def backbone():
    return random_backbone("nano", CPU, torch.float32)


@pytest.fixture
def experts() -> Experts:
    made = Experts(backbone(), slots=3, rank=4, alpha=8.0)
    made.load(random_experts(made, seed=0))
    return made


@pytest.fixture
def loop(experts: Experts, tmp_path: Path) -> PeftLoop:
    """Plain PEFT adapters made from the experts' files, on a base of their own."""
    folders = [tmp_path / str(slot) for slot in range(experts.slots)]
    for slot, folder in enumerate(folders):
        experts.save(slot, folder)
    return PeftLoop(backbone(), folders)


def cases(loop: PeftLoop, experts: Experts) -> list[Case]:
    return [
        probe_case(experts, loop, WORK, 3, 500),
        training_case(experts, loop, WORK, 1, 500, WAYS[:1]),
        training_case(experts, loop, WORK, 2, 500),
        generation_case(experts, loop, WORK, 1, max_new_tokens=3),
    ]


def test_all_ways_give_the_same_numbers(loop: PeftLoop, experts: Experts) -> None:
    for case in cases(loop, experts):
        assert case.disagreements
        for way, differ in case.disagreements.items():
            assert differ() <= case.limit, (case.name, way)


def test_other_experts_are_not_equal_work(loop: PeftLoop, experts: Experts) -> None:
    experts.load(random_experts(experts, seed=1))
    for case in cases(loop, experts)[:-1]:  # other experts may well give the same answers
        with pytest.raises(RunError, match=f"{case.name}: .* differ by"):
            compare([case], 1, Clock(CPU), Machine(1e9))


def test_the_floor_counts_every_product(experts: Experts) -> None:
    """By hand for one batch: linear layers, causal attention, the head on target rows."""
    hidden, layers, inner, vocabulary, key_value = 64, 2, 128, 256, 32
    linear = layers * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner)
    rows, targets = 3 * 2 * 12, 3 * 2 * 3
    expected = 2 * rows * linear + 2 * targets * hidden * vocabulary
    expected += layers * 3 * 2 * (2 * 2 * hidden * 12 * 12) / 2
    assert target_rows(WORK.probe, 3) == targets
    assert flops(experts.backbone.model, WORK.probe, 3, targets) == expected


@pytest.mark.slow
def test_a_run_gives_a_table_and_json() -> None:
    console = Console(record=True, width=100)
    plan = Plan("nano", lengths=(8,), probed=(3,), trained=(2,), repeats=1, new_tokens=2)
    found = json.loads(json.dumps(measured(plan, CPU, console)))
    assert [row["phase"] for row in found["results"]] == ["probe", "training", *["generation"] * 2]
    for row in found["results"]:
        assert all(other["speed_up_min"] > 0 for other in row["others"].values())
    assert "mixed batch" in console.export_text()


@pytest.mark.slow
def test_the_gpu_check_can_be_tried_without_a_gpu() -> None:
    found = gpu_check.checked(dry_run=True, skip_tests=False, console=Console())
    assert found["tests"]["failed"] == 0
    assert found["tests"]["passed"] > 0
    assert set(found["results"]) == set(gpu_check.FULL)


def test_the_ways_to_multiply_in_8_bits_are_told_apart(tmp_path: Path) -> None:
    """On the same weights: what bitsandbytes rounds, and what our product leaves whole."""
    rows = [list(range(2, 2 + length)) for length in (9, 5, 7)]
    base = tiny.build("llama", tmp_path / "base")
    folder = eight_bits.with_outliers(base, 3.0, tmp_path / "wide")
    whole = load_backbone(base, dtype="float32", device="cpu")
    truth = eight_bits._alone(whole, rows)
    changed = load_backbone(folder, dtype="float32", device="cpu")
    torch.testing.assert_close(eight_bits._alone(changed, rows), truth, rtol=1e-3, atol=1e-3)
    eight = load_backbone(folder, bits=8, dtype="float32", device="cpu")
    found = {}
    for way in (eight_bits.OURS, *eight_bits.THRESHOLDS):
        with eight_bits.product(eight, way):
            found[way] = eight_bits._read(eight, rows, truth)
    ours, six, none = found.values()
    assert max(ours["company_most"], none["company_most"]) < 1e-4 < six["company_most"]
    assert ours["error_mean"] < none["error_mean"]
