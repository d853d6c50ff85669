"""The bank: its prior and its living part."""

from __future__ import annotations

import pytest
import torch

from fedvemoe_app.em.state import Bank

ALIVE = torch.tensor([True, False, True, True, False])


def bank() -> Bank:
    experts = {"A": torch.arange(10.0).view(5, 2), "B": torch.arange(5.0)}
    return Bank(experts, ALIVE, ALIVE.double() / 3)


def test_a_new_bank_has_a_uniform_prior_over_its_living_slots() -> None:
    start = Bank.start({"A": torch.zeros(4, 2)}, alive=3)
    assert start.slots == [0, 1, 2]
    assert start.prior.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


@pytest.mark.parametrize("concentration", [0.1, 1.0, 10.0])
def test_the_prior_sums_to_one_over_the_living_and_is_zero_elsewhere(concentration: float) -> None:
    """Goes red when the smoothing is divided among all slots or reaches the dead."""
    mass = torch.tensor([4.0, 0.0, 1.5, 0.5, 0.0], dtype=torch.float64)
    prior = bank().with_mass(mass, 6.0, concentration=concentration).prior
    assert float(prior.sum()) == pytest.approx(1.0, abs=1e-12)
    assert prior[~ALIVE].tolist() == [0.0, 0.0]
    expected = (mass[ALIVE] + concentration / 3) / (6.0 + concentration)
    assert torch.allclose(prior[ALIVE], expected, rtol=0, atol=1e-12)


def test_an_expert_without_mass_keeps_a_prior() -> None:
    mass = torch.tensor([6.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert bank().with_mass(mass, 6.0).prior[2] == pytest.approx(1 / 21)


def test_mass_on_a_dead_slot_is_lost_and_the_rest_still_sums_to_one() -> None:
    mass = torch.tensor([2.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    prior = bank().with_mass(mass, 6.0).prior
    assert prior[1] == 0.0
    assert float(prior.sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_living_part_goes_out_and_comes_back() -> None:
    living = bank().living()
    assert living.experts["A"][:, 0].tolist() == [0.0, 4.0, 6.0]
    assert living.slots == [0, 1, 2]
    moved = Bank({n: x + 100 for n, x in living.experts.items()}, living.alive, living.prior)
    back = bank().with_living(moved)
    assert back.experts["B"].tolist() == [100.0, 1.0, 102.0, 103.0, 4.0]
    assert torch.equal(back.alive, ALIVE)
    assert torch.equal(back.prior, bank().prior)


def test_a_newborn_takes_its_share_from_all() -> None:
    expert = {"A": torch.full((1, 2), 7.0), "B": torch.full((1,), 8.0)}
    grown = bank().born(1, expert)
    assert grown.slots == [0, 1, 2, 3]
    assert grown.prior.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0])
    assert grown.experts["A"][1].tolist() == [7.0, 7.0]
    assert torch.equal(grown.experts["B"][[0, 2, 3, 4]], bank().experts["B"][[0, 2, 3, 4]])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.0, 9.0, 0.0, 0.5, 9.0], [1 / 3, 0, 0, 2 / 3, 0]),  # by the shares of the living
        ([0.2, 0.0, 5.0, 0.6, 0.0], [1 / 3 + 1 / 12, 0, 0, 1 / 3 + 3 / 12, 0]),
        ([0.0] * 5, [0.5, 0, 0, 0.5, 0]),  # nobody would take it: by the prior
    ],
)
def test_a_closed_slot_leaves_its_mass_to_others(
    shares: list[float], expected: list[float]
) -> None:
    """Goes red when mass is lost, or goes to the dead or to the slot that closes."""
    closed = bank().without(2, torch.tensor(shares, dtype=torch.float64))
    assert closed.slots == [0, 3]
    assert closed.prior.tolist() == pytest.approx(expected)


def test_an_adopted_expert_changes_its_slot_alone() -> None:
    other = bank().adopt(3, {"A": torch.full((1, 2), -1.0, dtype=torch.float64)})
    assert other.experts["A"][3].tolist() == [-1.0, -1.0]
    assert other.experts["A"].dtype is torch.float32
    assert other.experts["B"] is not None
    assert torch.equal(other.experts["A"][:3], bank().experts["A"][:3])
    assert torch.equal(other.prior, bank().prior)
