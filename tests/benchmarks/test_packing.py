"""Packed, padded and plain PEFT training are the same work, and padding is counted as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import packing
from benchmarks.compute import ALPHA
from benchmarks.packing import Drawn, shares, training_case
from benchmarks.peft_loop import PeftLoop
from benchmarks.sizes import random_backbone
from benchmarks.workload import random_experts
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.batches import Example
from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.data.task import Instance
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.overrides import gather

LENGTHS = [5, 40, 6, 7, 30, 8, 9, 12] * 4


def example(number: int, length: int) -> Example:
    ids = tuple((7 * number + 3 * place) % 250 + 2 for place in range(length))
    return Example(ids, length - 3, "task", Instance("", "", ("",)))


@pytest.fixture
def drawn() -> Drawn:
    examples = tuple(example(number, length) for number, length in enumerate(LENGTHS))
    data = EncodedTasks(train=examples, probe=examples, top_up=(), test=examples, answered=())
    config = RunConfig.from_flat(gather(RunConfig, None, ["local-steps=4", "row-cap=400"]))
    return Drawn("silo-00", data, config, attention=0.001)


def test_all_ways_train_alike(drawn: Drawn, tmp_path: Path) -> None:
    ours, theirs = (random_backbone("nano", packing.CPU, torch.float32) for _ in range(2))
    experts = Experts(ours, slots=2, rank=4, alpha=ALPHA)
    experts.load(random_experts(experts, 0))
    for slot in range(2):
        experts.save(slot, tmp_path / str(slot))
    loop = PeftLoop(theirs, [tmp_path / "0", tmp_path / "1"])
    case = training_case(experts, loop, drawn, 2)
    assert set(case.disagreements) == {"cut by length", "one width", "two passes"}
    assert all(differ() <= case.limit for differ in case.disagreements.values())


def test_padding_is_that_of_the_passes(drawn: Drawn) -> None:
    found = shares([drawn])
    training = found["training"]
    assert 1 <= training["packed"] < training["cut by length"] < training["one width"]
    widest = [max(batch.widths) for batch in drawn.trained(packing.apart, 4)]
    assert training["one width"] == pytest.approx(8 * sum(widest) / sum(LENGTHS))
    assert training["mean tokens"] == sum(LENGTHS) / len(LENGTHS)
