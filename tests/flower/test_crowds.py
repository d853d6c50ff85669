"""c-min goes by counts, and by none that belongs to another bank."""

from __future__ import annotations

import torch
from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.flower.server.crowds import Crowds


def bank(*alive: bool) -> Bank:
    living = torch.tensor(alive)
    return Bank({"x": torch.zeros(len(alive), 2)}, living, living.double() / living.sum())


def counts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ODD = bank(True, False, True)


def test_nothing_is_summed_before_anybody_was_counted() -> None:
    crowds = Crowds(3, 1)
    assert crowds.crowded(ODD, warming=False).tolist() == [False, False]
    assert crowds.crowded(ODD, warming=True).tolist() == [False, False]


def test_counts_of_living_experts_lie_at_their_slots() -> None:
    crowds = Crowds(3, 3)
    crowds.assessed(counts(2, 3), ODD)
    assert crowds.crowded(ODD, warming=False).tolist() == [False, True]
    assert crowds.counted.tolist() == [2, 0, 3]


def test_counts_hold_while_the_structure_does() -> None:
    crowds = Crowds(3, 3)
    crowds.assessed(counts(3, 4), ODD)
    crowds.trained(ODD, bank(True, False, True))
    assert crowds.crowded(ODD, warming=False).all()
    for other in (bank(True, True, True), bank(True, False, False), bank(True, True, False)):
        crowds.assessed(counts(3, 4), ODD)
        crowds.trained(ODD, other)
        assert not crowds.crowded(other, warming=False).any()


def test_who_leaves_in_the_warm_up_may_be_missing_anywhere() -> None:
    crowds = Crowds(3, 3)
    crowds.began(counts(3, 4), ODD)
    crowds.assessed(counts(1, 1), ODD)
    assert crowds.crowded(ODD, warming=True).tolist() == [True, True]
    crowds.left(1)
    assert crowds.crowded(ODD, warming=True).tolist() == [False, True]
    assert crowds.crowded(ODD, warming=False).tolist() == [False, False]
