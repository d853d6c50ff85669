"""Regret: a silo's own account of what averaging costs it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedvemoe_app.em.gain import standard_error
from fedvemoe_app.em.lifecycle.orders import Notice
from fedvemoe_app.em.lifecycle.regret import CONTENT, Memory, observed, side_of
from fedvemoe_app.em.lifecycle.rules import Rules

RULES = Rules(sketch_size=2)
OWNERS = torch.repeat_interleave(torch.arange(20), 5)
NOW = torch.linspace(-3, -1, 100, dtype=torch.float64)
AXIS = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def notice(round_: int, slots: tuple[int, ...] = (2, 5), since: tuple[int, ...] = (0, 0)) -> Notice:
    return Notice(round_, slots, since, AXIS, torch.zeros(2, dtype=torch.float64))


def memory(round_: int, *, loss: float = 0.1, regret: float = 0.1, seen: int = 5) -> Memory:
    wishes = torch.tensor([[0.6, -0.8], [0.0, 0.0]], dtype=torch.float64)
    columns = torch.zeros(100, 2, dtype=torch.float64)
    slots = torch.tensor([2, 5])
    return Memory(round_, regret, seen, 2, CONTENT, slots, columns, OWNERS, NOW + loss, wishes)


def test_regret_is_what_averaging_took_away_in_a_running_average() -> None:
    """Goes red when the difference is turned round, or old and new change places."""
    regret, seen, _ = observed(memory(6, loss=0.2), notice(7), NOW, OWNERS, 2, RULES)
    assert regret == pytest.approx(0.6 * 0.1 + 0.4 * 0.2)
    assert seen == 6
    first, _, _ = observed(memory(6, loss=0.2, seen=0), notice(7), NOW, OWNERS, 2, RULES)
    assert first == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("loss", "seen", "unhappy"),
    [(0.1, 5, True), (0.1, 1, False), (0.005, 5, False), (-1, 5, False)],
)
def test_a_silo_is_dissatisfied_after_enough_regret(loss: float, seen: int, unhappy: bool) -> None:
    last = memory(6, loss=loss, regret=loss, seen=seen)
    assert observed(last, notice(7), NOW, OWNERS, 2, RULES)[2] is unhappy


def test_regret_within_its_own_noise_is_none() -> None:
    """The same mean loss, once spread over all examples and once due to one of them."""
    even = memory(6, loss=0.05, regret=0.05)
    outlier = torch.where(OWNERS == 3, NOW + 1.0, NOW)
    assert observed(even, notice(7), NOW, OWNERS, 2, RULES)[2]
    assert not observed(replace(even, local=outlier), notice(7), NOW, OWNERS, 2, RULES)[2]


def test_the_standard_error_is_that_of_independent_examples() -> None:
    values = torch.tensor([1.0, 1.0, 3.0, 3.0, 8.0, 8.0], dtype=torch.float64)
    owners = torch.tensor([0, 0, 1, 1, 2, 2])
    means = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
    assert standard_error(values, owners) == pytest.approx(float(means.std()) / 3**0.5)
    assert standard_error(values[:2], owners[:2]) == float("inf")


@pytest.mark.parametrize("news", [notice(7, since=(7, 0)), notice(7, slots=(4, 5))])
def test_an_event_at_the_main_expert_wipes_the_slate(news: Notice) -> None:
    assert observed(memory(6), news, NOW, OWNERS, 5, RULES) == (0.0, 0, False)


def test_an_event_elsewhere_does_not() -> None:
    assert observed(memory(6), notice(7, since=(0, 7)), NOW, OWNERS, 2, RULES)[1] == 6


def test_a_silo_that_was_absent_keeps_what_it_knew_and_is_not_counted() -> None:
    away = memory(3)
    assert observed(away, notice(7), NOW, OWNERS, 2, RULES) == (0.1, 5, False)
    assert side_of(away, notice(7), 2) == CONTENT
    assert observed(None, notice(7), NOW, OWNERS, 2, RULES) == (0.0, 0, False)


def test_an_event_during_absence_is_noticed() -> None:
    assert observed(memory(3), notice(9, since=(5, 0)), NOW, OWNERS, 2, RULES)[1] == 0


def test_the_side_is_where_the_wish_for_the_main_expert_points() -> None:
    last = memory(6)
    assert side_of(last, notice(7), 2) == 1
    assert side_of(replace(last, wishes=-last.wishes), notice(7), 2) == 0
    moved = replace(notice(7), level=torch.tensor([0.7, 0.0], dtype=torch.float64))
    assert side_of(last, moved, 2) == 0
    assert side_of(last, notice(7), 5) == CONTENT  # it did not train that one
    assert side_of(last, replace(notice(7), axis=torch.zeros_like(AXIS)), 2) == CONTENT


def test_a_memory_comes_back_from_its_tensors() -> None:
    last = memory(6)
    again = Memory.from_arrays(last.arrays())
    assert {tensor.dtype for tensor in last.arrays().values()} == {torch.float64}
    assert (again.round, again.regret, again.main, again.side) == (6, 0.1, 2, CONTENT)
    for name in ("slots", "log_lik", "owners", "local", "wishes"):
        assert torch.equal(getattr(again, name), getattr(last, name)), name


def test_training_that_diverged_leaves_no_score() -> None:
    broken = memory(6).trained(torch.full((100,), torch.nan), torch.zeros(2, 2))
    assert observed(broken, notice(7), NOW, OWNERS, 2, RULES) == (0.1, 5, False)
