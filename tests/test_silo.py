"""A silo at work: its data kept apart, one resident base, and each phase a step."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.evaluation.scores import pool
from fedvemoe_app.silo import Silo, open_silo, resident_experts
from fedvemoe_app.terms import inference, training
from tests.federation import HOUSES, SILOS, Settings


@pytest.fixture
def config(settings: Callable[..., Settings]) -> RunConfig:
    return RunConfig.from_flat(settings())


def start(silo: Silo) -> Bank:
    """Return the bank's living experts at the start."""
    experts = silo.family.experts
    whole = Bank.start(experts.initial(0), alive=silo.config.em.k_init)
    return whole.living()


@pytest.mark.parametrize("index", range(SILOS))
def test_a_silo_holds_its_own_tasks(index: int, config: RunConfig) -> None:
    silo = open_silo(config, index, SILOS)
    house = list(HOUSES)[index]
    assert (silo.name, silo.category, silo.domain) == (f"silo-{index:02d}", house, "")
    assert sorted(silo.tasks) == [f"{house}_0", f"{house}_1"]
    assert {example.task for example in silo.family.data.train} == set(silo.tasks)


def test_what_it_trains_on_probes_with_and_is_tested_by_are_apart(config: RunConfig) -> None:
    data = open_silo(config, 0, SILOS).family.data
    parts = {
        name: {example.instance.id for example in getattr(data, name)}
        for name in ("train", "probe", "top_up", "test", "answered")
    }
    assert all(parts.values())
    assert parts["top_up"] < parts["train"]
    assert parts["answered"] < parts["test"]
    for one, other in (("train", "probe"), ("train", "test"), ("probe", "test")):
        assert not parts[one] & parts[other]


def test_the_base_is_loaded_once_and_serves_every_silo(config: RunConfig) -> None:
    silos = [open_silo(config, index, SILOS) for index in range(SILOS)]
    assert len({id(silo.family.experts) for silo in silos}) == 1
    other = replace(config, rounds=replace(config.rounds, local_steps=1))
    assert open_silo(other, 0, SILOS).family.experts is silos[0].family.experts


def test_another_shape_of_experts_frees_the_last_and_keeps_the_base(config: RunConfig) -> None:
    resident_experts(config.model, 5)  # whatever base others have left resident is gone now
    first = resident_experts(config.model, 3)
    backbone, gone = first.backbone, weakref.ref(first)
    second = resident_experts(config.model, 4)
    assert second.slots == 4
    assert second.backbone is backbone
    assert first.names == ()
    del first
    gc.collect()
    assert gone() is None
    adapters = [n for n, _ in backbone.model.named_parameters() if "slot_" in n]
    assert {name.rsplit("slot_")[1][:2] for name in adapters} == {"00", "01", "02", "03"}


def test_a_base_that_cannot_be_had_leaves_nothing_half_loaded(
    config: RunConfig, tmp_path: Path
) -> None:
    missing = replace(config.model, model_name=str(tmp_path / "none"))
    with pytest.raises(BaseModelError, match="none"):
        resident_experts(missing, 3)
    assert resident_experts(config.model, 3).slots == 3


def test_the_e_step_and_the_scores(config: RunConfig) -> None:
    silo = open_silo(config, 1, SILOS)
    belief, sums = silo.assess(start(silo))
    assert belief.predict.shape == (2,)
    assert belief.predict.sum() == pytest.approx(1.0)
    assert sums.silos == 1
    assert sums.mass.sum() == pytest.approx(1.0)
    assert sums.tokens == sum(example.targets for example in silo.family.data.probe)
    scores = silo.evaluate(belief)
    assert set(scores) == set(silo.tasks)
    assert pool(scores.values()).sequences == len(silo.family.data.test)
    assert pool(scores.values()).examples == len(silo.family.data.answered)


def test_the_m_step_trains_the_experts_that_have_a_weight(config: RunConfig) -> None:
    silo = open_silo(config, 1, SILOS)
    update = silo.train(start(silo), torch.tensor([0.0, 1.0], dtype=torch.float64), 1)
    assert update.weight[0] == 0
    assert update.weight[1] == pytest.approx(silo.family.size**0.5)
    for change in update.delta.values():
        assert (change[0] == 0).all()
        assert change[1].abs().max() > 0


def test_houses_have_different_sketches_and_a_silo_always_the_same(config: RunConfig) -> None:
    silos = [open_silo(config, index, SILOS) for index in (0, 1)]
    one, other = (silo.sketch(start(silo)) for silo in silos)
    assert one.shape == (config.em.sketch_size,)
    assert torch.linalg.vector_norm(one) == pytest.approx(1.0)
    assert torch.equal(silos[0].sketch(start(silos[0])), one)
    assert one @ other < 0.9999


def test_silos_in_one_process_do_not_disturb_one_another(config: RunConfig) -> None:
    one, other = (open_silo(config, index, SILOS) for index in (0, 1))
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    alone = one.train(start(one), weights, 1)
    other.train(start(other), weights, 1)
    again = one.train(start(one), weights, 1)
    assert all(torch.equal(alone.delta[name], again.delta[name]) for name in alone.delta)


def test_every_setting_of_the_e_step_and_of_training_is_passed_on(config: RunConfig) -> None:
    em = replace(
        config.em,
        top_m=3,
        rho=0.3,
        predict_floor=0.01,
        tau=2.0,
        responsibility_rule="softmax",
        kappa=7.0,
        gamma=1.5,
    )
    rounds = replace(
        config.rounds,
        local_steps=9,
        batch_size=2,
        learning_rate=0.5,
        max_grad_norm=3.0,
        lora_factors="B",
    )
    changed = replace(config, em=em, rounds=rounds)
    weighed = replace(config.method, expert_weight="silo", proximal_mu=0.7)
    fedem, fedprox = (
        replace(changed, rounds=replace(rounds, strategy=name), method=weighed)
        for name in ("fedem", "fedprox")
    )
    found, before = inference(changed), inference(RunConfig())
    assert all(getattr(found, f.name) != getattr(before, f.name) for f in fields(found))
    assert (found.top_m, found.rule, found.kappa, found.gamma) == (3, "softmax", 7.0, 1.5)
    taught, earlier = replace(training(fedem), proximal=0.7), training(RunConfig())
    assert training(fedprox) == replace(training(changed), proximal=0.7)
    assert all(getattr(taught, f.name) != getattr(earlier, f.name) for f in fields(taught))
    assert (taught.steps, taught.factors, taught.gamma) == (9, "B", 1.5)
