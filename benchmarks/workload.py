"""The work that all ways do: random tokens of a given length, and random experts for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.head import is_target
from fedvemoe_app.seeds import stream

SPREAD = 0.02  # of the entries of B: about what a few rounds of training make of them
TARGETS = 4  # one token in so many is a target
STEPS = 2
ANSWERED = 8
FEWEST = 2  # of a vocabulary: its first ids end an answer


@dataclass(frozen=True, slots=True)
class Workload:
    """Batches of one length, and the prompts to answer."""

    length: str
    probe: tuple[Batch, ...]
    train: tuple[Batch, ...]
    prompts: tuple[tuple[int, ...], ...]


def workload(vocabulary: int, length: int, *, sequences: int, probed: int) -> Workload:
    """Return batches of ``sequences`` x ``length`` random tokens, ``probed`` of them to probe."""
    rng = stream(0, "benchmark", length)
    probe = tuple(_batch(rng, vocabulary, sequences, length, n) for n in range(probed))
    train = tuple(_batch(rng, vocabulary, sequences, length, 0) for _ in range(STEPS))
    prompts = rng.integers(FEWEST, vocabulary, (ANSWERED, length)).tolist()
    return Workload(str(length), probe, train, tuple(map(tuple, prompts)))


def _batch(
    rng: np.random.Generator, vocabulary: int, sequences: int, length: int, number: int
) -> Batch:
    ids = torch.from_numpy(rng.integers(FEWEST, vocabulary, (sequences, length)))
    labels = torch.full_like(ids, -100)
    answer = max(1, length // TARGETS)
    labels[:, -answer:] = ids[:, -answer:]
    rows = range(number * sequences, (number + 1) * sequences)
    return Batch(ids, labels, tuple(rows), ((length,),) * sequences)


def token_rows(batches: Sequence[Batch], experts: int) -> int:
    """Return padded tokens times experts: what goes through the base, once each."""
    return experts * sum(batch.input_ids.numel() for batch in batches)


def target_rows(batches: Sequence[Batch], experts: int) -> int:
    """Return target tokens times experts: what goes through the head."""
    return experts * sum(int(is_target(batch.labels).sum()) for batch in batches)


def random_experts(experts: Experts, seed: int) -> dict[str, Tensor]:
    """Return factors [K, ...] in which no two experts are alike and none is zero."""
    start = experts.initial(seed)
    for name, stack in start.items():
        drawn = stream(seed, "benchmark", name).normal(0.0, SPREAD, stack.shape)
        stack += stack.new_tensor(drawn)
    return start
