"""Templates: all silos send one shape, and steps follow from what was summed before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import WEIGHT_BOUND, Scales, Template, first_scale
from fedvemoe_app.flower.messages.words import layout_of
from fedvemoe_app.secagg.layout import Accumulator
from fedvemoe_app.secagg.ring import Ring
from tests.flower.small_sums import SHAPES, TEMPLATE, numbers

SIZE, WEIGHT, SILOS = 400, 20.0, 6


def test_what_a_silo_has_nothing_for_is_zero() -> None:
    own = numbers(0)
    found = TEMPLATE.conform({"mass": own["mass"]})
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == SHAPES
    assert torch.equal(found["mass"], own["mass"])
    assert not found["delta"].any()
    assert (found["delta"].dtype, found["count"].dtype) == (torch.float32, torch.float64)


def test_the_order_is_that_of_the_template() -> None:
    assert list(TEMPLATE.conform(dict(reversed(numbers(0).items())))) == list(SHAPES)


@pytest.mark.parametrize(
    "stranger", [{"more": torch.zeros(2)}, {"mass": torch.zeros(3)}, {"mass": torch.zeros(2, 1)}]
)
def test_strangers_are_refused(stranger: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RunError, match=r"of shape \(.*\) is not in the template"):
        TEMPLATE.conform({**numbers(0), **stranger})


def test_a_template_travels() -> None:
    content = RecordDict()
    assert Template.told(content) is None
    TEMPLATE.put(content)
    assert Template.get(content) == TEMPLATE
    assert Template.told(content) == SHAPES
    with pytest.raises(RunError, match="without its record template"):
        Template.get(RecordDict())


def bank() -> Bank:
    return Bank.start({"x.B": torch.zeros(2, 20, 20)}, alive=2)


def summed(size: float, contributors: int) -> Update:
    """The sums of silos that each move expert 0 by about ``size`` per value; nobody moves 1."""
    shape = {"x.B": torch.zeros(2, 20, 20, dtype=torch.float64)}
    each = size**2 * SIZE
    squares = torch.tensor([contributors * WEIGHT * each, 0.0], dtype=torch.float64)
    scalar = torch.tensor(float(SILOS), dtype=torch.float64)
    weight = torch.tensor([contributors * WEIGHT, 0.0], dtype=torch.float64)
    return Update(scalar, scalar, scalar, scalar, weight, shape, {"x.B": squares})


def test_the_first_scale_serves_until_a_tensor_was_trained() -> None:
    scales = Scales(0.75)
    assert scales.template(bank(), ["x.B"]).rms == {"delta/x.B": [0.75, 0.75]}
    scales.learn(summed(1e-3, SILOS), bank())
    trained, idle = scales.template(bank(), ["x.B"]).rms["delta/x.B"]
    assert idle == trained < 0.75


def test_scales_stay_with_their_slots_and_a_newborn_takes_the_largest() -> None:
    scales, three = Scales(0.75), Bank.start({"x.B": torch.zeros(3, 20, 20)}, alive=2)
    scales.learn(summed(1e-3, SILOS), three)
    trained = scales.template(three, ["x.B"]).rms["delta/x.B"][0]
    grown = three.born(2, three.expert(0)).without(0, torch.ones(3))
    template = scales.template(grown, ["x.B"], parent=1)
    assert template.rms == {"delta/x.B": [trained, trained], "seed/x.B": [trained]}


@pytest.mark.parametrize("first", [0.0, 1e-40])
def test_a_learning_rate_of_nothing_has_a_step_all_the_same(first: float) -> None:
    template = Scales(first).template(bank(), ["x.B"])
    assert all(
        step > 0 for field in layout_of(template, Ring(32, 3)).fields for step in field.steps
    )


@pytest.mark.parametrize("contributors", [1, 3, SILOS])
def test_scales_follow_the_last_rounds_squares(contributors: int) -> None:
    """One silo sends weight times change; a few contributors of many make it a little off."""
    scales = Scales(0.75)
    for size in (1e-3, 5e-2):
        scales.learn(summed(size, contributors), bank())
        found = scales.template(bank(), ["x.B"]).rms["delta/x.B"][0]
        assert found == pytest.approx(WEIGHT * size * contributors / SILOS**0.5)
        assert 0.3 < found / (WEIGHT * size) < 3


def test_shapes_are_those_of_the_trained_tensors() -> None:
    shapes = Scales(0.75).template(bank(), ["x.B"]).shapes
    assert shapes["delta/x.B"] == (2, 20, 20)
    assert shapes["squares/x.B"] == shapes["weight"] == (2,)


@pytest.mark.parametrize("rule", WEIGHT_BOUND)
def test_the_first_scale_bounds_a_first_round(rule: str) -> None:
    moved = WEIGHT_BOUND[rule] * 3e-3 * 30
    assert first_scale(rule, 3e-3, 30) > 0.1 * moved


@pytest.mark.parametrize("off", [0.25, 1.0, 4.0])
def test_words_are_not_clipped_where_the_scale_is_wrong(off: float) -> None:
    template = replace(TEMPLATE, rms={"delta": [0.1 * off, 0.1 * off]})
    layout = layout_of(template, Ring(32, 3))
    sums, total = Accumulator(layout), np.zeros((2, 40))
    for seed in range(3):
        own = numbers(seed)
        sums.add(layout.encode({n: t.numpy() for n, t in own.items()}, bytes(16)))
        total += own["delta"].numpy()
    found = sums.total()["delta"]
    assert np.linalg.norm(found - total) < 1e-4 * np.linalg.norm(total)
