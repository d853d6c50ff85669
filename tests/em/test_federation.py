"""The whole algorithm on the bigram toy: it finds planted domains and learns them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch

from fedvemoe_app import seeds
from fedvemoe_app.em.round import Belief, Inference, assess, assess_step, train, train_step
from fedvemoe_app.em.state import Bank
from tests.bigram import Bigram, World, agreement, silos
from tests.em.start import clustered

WARM_UP = 3
INFERENCE = Inference()


def federate(
    family: Sequence[Bigram], bank: Bank, clusters: Sequence[int], *, rounds: int, share: float
) -> Bank:
    """Return the bank after ``rounds``; in each, a silo answers with chance ``share``."""
    rng = seeds.stream(0, "who answers")
    one_hot = torch.eye(len(bank.alive), dtype=torch.float64)
    for round_ in range(1, rounds + 1):
        present = [i for i in range(len(family)) if rng.random() < share]
        found = [assess(family[i], bank, INFERENCE) for i in present]
        updates = [
            train(family[i], bank, one_hot[clusters[i]] if round_ <= WARM_UP else b.train, round_)
            for i, (b, _) in zip(present, found, strict=True)
        ]
        bank = train_step(bank, functools.reduce(operator.add, updates), silos=len(family))
        bank = assess_step(bank, functools.reduce(operator.add, [sums for _, sums in found]))
    return bank


def beliefs(family: Sequence[Bigram], bank: Bank) -> list[Belief]:
    return [assess(silo, bank, INFERENCE)[0] for silo in family]


def outcome(world: World, family: Sequence[Bigram], bank: Bank) -> tuple[float, float]:
    """Return how well domains are recovered, and the mean excess loss in nats per token."""
    found = [belief.predict for belief in beliefs(family, bank)]
    excess = [world.excess(s, bank.experts, r) for s, r in zip(family, found, strict=True)]
    recovered = agreement([int(r.argmax()) for r in found], [silo.domain for silo in family])
    return recovered, sum(excess) / len(excess)


def test_domains_are_recovered_and_learnt() -> None:
    """Goes red when updates change their sign, or silos train at random experts."""
    world = World.planted(1, domains=4)
    family, start = silos(world, 1, number=8, smallest=800), world.start(1, experts=4)
    assert outcome(world, family, start)[1] > 0.5
    clusters = clustered(family, start, clusters=4, seed=1)
    bank = federate(family, start, clusters, rounds=9, share=1.0)
    recovered, excess = outcome(world, family, bank)
    assert recovered > 0.95
    assert excess < 0.08
    assert abs(float(bank.prior.sum()) - 1.0) < 1e-12


def test_two_silos_in_five_are_enough() -> None:
    world = World.planted(1, domains=4)
    family, start = silos(world, 1, number=8, smallest=800), world.start(1, experts=4)
    clusters = clustered(family, start, clusters=4, seed=1)
    bank = federate(family, start, clusters, rounds=20, share=0.4)
    recovered, excess = outcome(world, family, bank)
    assert recovered > 0.95
    assert excess < 0.09


def test_without_the_start_equal_experts_stay_alike() -> None:
    """What the start is for: from B = 0 and the E-step alone, domains are not told apart."""
    world = World.planted(1, domains=4)
    family, start = silos(world, 1, number=8, smallest=800), world.start(1, experts=4)
    bank = federate(family, start, [0] * 8, rounds=6, share=1.0)
    assert outcome(world, family, bank)[0] < 0.5
