"""The open worlds of method.md, planted on the bigram toy: how they begin, and their true size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fedvemoe_app import seeds
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.em.state import Bank
from tests.bigram import RANK, Bigram, V, World, silos
from tests.em.openworld import Federation, Own, Silo

SLOTS = 10


@dataclass(frozen=True)
class Scenario:
    """``start`` makes the first experts; ``true`` is the number that the domains ask for.

    ``present`` says whether a silo takes part in a round, of all silos that take the ``domains``
    in turn.
    """

    start: Callable[[World, int], Bank]
    rounds: int
    true: int = 4
    domains: int = 4
    silos: int = 12
    habit: float = 0.0
    rules: Rules = field(default_factory=Rules)
    present: Callable[[Bigram, int], bool] = lambda silo, round_: True

    def play(self, seed: int, *, private: bool = False) -> Federation:
        """Return the federation after all rounds."""
        world = World.planted(seed, domains=self.domains)
        family = silos(world, seed, number=self.silos, habit=self.habit)
        bank = self.start(world, seed)
        members = [Silo(one, Own.of(one, bank) if private else None) for one in family]

        def present(round_: int) -> Sequence[int]:
            return [i for i, silo in enumerate(family) if self.present(silo, round_)]

        return Federation(members, bank, self.rules).run(self.rounds, present)


def equal(experts: int) -> Callable[[World, int], Bank]:
    """Start from experts that are all alike: one A, B = 0."""
    return lambda world, seed: widened(world.start(seed, experts=experts))


def cold(experts: int) -> Callable[[World, int], Bank]:
    """Start from small random experts, which have nothing to do with the domains."""

    def start(world: World, seed: int) -> Bank:
        rng = seeds.stream(seed, "cold experts")
        down = torch.from_numpy(rng.standard_normal((experts, RANK, V)) / 4)
        up = torch.from_numpy(rng.standard_normal((experts, V, RANK)) / 10)
        return widened(Bank.start({"A": down, "B": up}, alive=experts))

    return start


def fitted(*domains: int) -> Callable[[World, int], Bank]:
    """Start from experts that know the given domains, one expert for each mention."""

    def start(world: World, seed: int) -> Bank:
        change = world.logits[list(domains)] - world.base
        left, size, right = torch.linalg.svd(change)
        root = size[:, :RANK].sqrt()
        up = left[:, :, :RANK] * root.unsqueeze(1)
        down = root.unsqueeze(2) * right[:, :RANK]
        return widened(Bank.start({"A": down, "B": up}, alive=len(domains)))

    return start


def widened(bank: Bank) -> Bank:
    """Return the bank with free slots up to SLOTS."""
    free = SLOTS - len(bank.alive)
    experts = {
        name: torch.cat([stack, stack[:1].expand(free, *stack.shape[1:])])
        for name, stack in bank.experts.items()
    }
    alive = torch.arange(SLOTS) < len(bank.alive)
    return Bank(experts, alive, torch.cat([bank.prior, bank.prior.new_zeros(free)]))


SCENARIOS = {
    # two of three experts know one domain, the third is shared by the rest
    "one shared by others": Scenario(fitted(0, 0, 1), rounds=36),
    "cold": Scenario(cold(3), rounds=24),
    "cold, crowds of three": Scenario(cold(3), rounds=24, rules=Rules(c_min=3)),
    "too many": Scenario(cold(7), rounds=30),
    "one domain": Scenario(cold(3), rounds=30, true=1, domains=1, silos=8),
    "one expert": Scenario(equal(1), rounds=30),
    "alike": Scenario(equal(3), rounds=42),
    "a domain arrives": Scenario(
        cold(3), rounds=36, present=lambda silo, round_: silo.domain != 3 or round_ > 12
    ),
    "a domain leaves": Scenario(
        cold(5),
        rounds=42,
        domains=5,
        silos=15,
        present=lambda silo, round_: silo.domain != 3 or round_ <= 12,
    ),
}
