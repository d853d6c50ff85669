"""The open world: birth, prune and merge find the planted number of experts, and then rest.

Each test goes red when any one of the moves is switched off that its world needs.
"""

from __future__ import annotations

import pytest

from tests.em.openworld import Federation
from tests.em.scenarios import SCENARIOS, Scenario, fitted


def kinds(federation: Federation) -> list[str]:
    return [event.kind for _, event in federation.events]


def found(federation: Federation, scenario: Scenario) -> bool:
    """Return whether the true number was found and nothing happened in the last third."""
    last = max((round_ for round_, _ in federation.events), default=0)
    return federation.size == scenario.true and last <= 2 * scenario.rounds / 3


LONG = {"alike", "cold", "one shared by others"}
"""Quarter of a minute each: the default suite has what is most like them."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SCENARIOS],
)
def test_the_planted_number_is_found(name: str) -> None:
    scenario = SCENARIOS[name]
    federation = scenario.play(1)
    assert found(federation, scenario), federation.events
    excess = federation.excess()
    assert sum(excess) / len(excess) < 0.06
    assert abs(float(federation.bank.prior.sum()) - 1.0) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_planted_number_is_found_from_other_seeds(name: str) -> None:
    scenario = SCENARIOS[name]
    hits = {seed: found(scenario.play(seed), scenario) for seed in range(5)}
    print(name, hits)
    assert sum(hits.values()) >= 4, hits


HABITS = Scenario(fitted(0, 1, 2, 3), rounds=18, habit=1.0)


def negative_transfer(federation: Federation, private: Federation) -> float:
    """Return the share of silos that a federation serves worse than their own expert does."""
    alone = private.excess_alone()
    return sum(a > b for a, b in zip(federation.excess(), alone, strict=True)) / len(alone)


def test_silos_with_habits_need_their_private_slot() -> None:
    """Without it experts are opened for habits; with it the bank stays, and nobody is worse off."""
    shared, private = HABITS.play(1), HABITS.play(1, private=True)
    assert shared.size > 4
    assert private.size == 4
    assert "close" in kinds(private)
    assert negative_transfer(shared, private) > 0.3
    assert negative_transfer(private, private) < 0.1
