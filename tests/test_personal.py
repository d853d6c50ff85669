"""A silo's own expert: what it learns from, what pulls it, and which version is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.personal import Personal, attracted, continued, newborn, steps_alone
from fedvemoe_app.silo import Silo, open_silo
from fedvemoe_app.strategies.registry import settle
from tests.federation import SILOS, Settings

Open = Callable[..., Silo]


@pytest.fixture
def silo(settings: Callable[..., Settings]) -> Open:
    """Open the first silo of a run with changed settings."""

    def opened(**changes: bool | float | str) -> Silo:
        flat = {**settings(target_modules="q_proj", probe_tokens=30), "private-slot": "local"}
        given = {key.replace("_", "-"): value for key, value in changes.items()}
        return open_silo(settle(RunConfig.from_flat({**flat, **given})), 0, SILOS)

    return opened


def bank(silo: Silo) -> Bank:
    experts = silo.family.experts.initial(0)
    return Bank.start(experts, alive=silo.config.em.k_init).living()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in one))


def test_the_first_candidate_is_the_untrained_expert(silo: Open) -> None:
    """A step that can only hurt is not kept, though training goes on from it."""
    opened = silo(learning_rate=5.0)
    family = opened.family
    before = newborn(family)
    own, _ = continued(family, None, 1, steps=3)
    assert own.log_lik.sum() == before.log_lik.sum()
    assert distance(own.best, before.best) == 0.0
    assert distance(own.last, before.last) > 0.0
    assert family.held_out(own.last).sum() < own.log_lik.sum()


def test_a_better_version_is_kept_with_its_probe(silo: Open) -> None:
    family = silo().family
    own, fit = continued(family, None, 1, steps=4)
    assert own.best is own.last
    assert own.log_lik.sum() > newborn(family).log_lik.sum()
    torch.testing.assert_close(own.log_lik, family.held_out(own.best))
    assert len(own.log_lik) == sum(example.targets for example in family.data.probe)
    assert fit.tokens > 0


def test_it_sees_the_batches_that_the_shared_experts_see(silo: Open) -> None:
    family = silo(lora_factors="both").family
    start = {name: stack[:1] for name, stack in family.experts.initial(0).items()}
    mine, fit = family.fit_own(start, 1, steps=4)
    shared = family.fit(start, [0], torch.ones(1, dtype=torch.float64), 1)
    assert fit.loss == shared.loss
    for name, delta in shared.delta.items():
        torch.testing.assert_close(mine[name], start[name] + delta)


def test_a_strong_pull_keeps_dittos_expert_near_the_shared_one(silo: Open) -> None:
    family = silo(learning_rate=1e-3, local_steps=20).family
    shared = {name: stack[:1] for name, stack in family.experts.initial(0).items()}
    free, weak, strong = (
        distance(attracted(family, None, shared, 1, strength=strength).last, shared)
        for strength in (0.0, 1.0, 1e4)
    )
    assert free > weak > 50 * strong


def test_ditto_predicts_with_its_own_expert_and_fedvemoe_with_both(silo: Open) -> None:
    for strategy in ("ditto", "fedvemoe"):
        opened = silo(strategy=strategy, local_steps=8)
        weights = torch.ones(len(bank(opened).alive), dtype=torch.float64)
        weights /= weights.sum()
        opened.train(bank(opened), weights, 1)
        own = opened.personalise(bank(opened), weights, 1, None)
        belief, _ = opened.assess(bank(opened), own)
        assert belief.private == 1.0 if strategy == "ditto" else belief.private > 0.0
        assert float(belief.predict.sum()) == pytest.approx(1.0 - belief.private)
        assert opened.evaluate(belief, own) != opened.evaluate(opened.assess(bank(opened))[0])


def test_a_tuned_slot_is_the_main_expert_as_training_left_it(silo: Open) -> None:
    opened = silo(private_slot="tuned")
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    update = opened.train(bank(opened), weights, 1)
    own = opened.personalise(bank(opened), weights, 1, None)
    assert own is not None
    for name, delta in update.delta.items():
        trained = bank(opened).experts[name][1] + delta[1] / update.weight[1].float()
        torch.testing.assert_close(own.best[name][0], trained)
    nobody = torch.zeros(2, dtype=torch.float64)
    assert opened.personalise(bank(opened), nobody, 1, own) is own


def test_without_a_private_slot_nothing_is_kept(silo: Open) -> None:
    opened = silo(private_slot="off", lifecycle=False)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert opened.personalise(bank(opened), weights, 1, None) is None
    assert opened.family.experts.slots == opened.config.em.k_max
    for one_more in (silo(lifecycle=False), silo(private_slot="off")):
        assert one_more.family.experts.slots == opened.config.em.k_max + 1


def test_total_steps_are_spread_over_the_rounds(silo: Open) -> None:
    config = silo(strategy="local", total_steps=7, num_server_rounds=3).config
    assert [steps_alone(config, round_) for round_ in (1, 2, 3)] == [2, 2, 3]
    plain = replace(config, rounds=replace(config.rounds, total_steps=0))
    assert [steps_alone(plain, round_) for round_ in (1, 2)] == [4, 4]


def test_a_random_first_expert_depends_on_the_silo_and_covers_all(silo: Open) -> None:
    opened = silo()
    names = [f"silo-{i:02d}" for i in range(40)]
    drawn = {name: replace(opened, name=name).first_expert(3) for name in names}
    assert all(sorted(weights.tolist()) == [0.0, 0.0, 1.0] for weights in drawn.values())
    assert {int(weights.argmax()) for weights in drawn.values()} == {0, 1, 2}
    assert torch.equal(opened.first_expert(3), drawn[opened.name])
    assert isinstance(newborn(opened.family), Personal)
