"""The laws of one round: the bound, symmetry, FedAvg and the centralised step as special cases."""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.family import Experts, Fit, Probe
from fedvemoe_app.em.round import Inference, assess, assess_step, importance, train, train_step
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update
from fedvemoe_app.errors import RunError
from tests import bigram
from tests.dice import Dice, bank_of, loaded, silos

PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
OPEN = Inference(top_m=3, rho=0.0, predict_floor=0.0)


def total_of(updates: list[Update]) -> Update:
    return functools.reduce(operator.add, updates)


def bound(family: list[Dice], bank: Bank, weights: list[Tensor], gamma: float) -> float:
    """Return the sum over silos of gamma [log sum_k r_k p_k^(1/gamma) + tau sum_k pi_k log r_k]."""
    value = 0.0
    for silo, r in zip(family, weights, strict=True):
        log_lik = silo.probe(bank.experts, bank.slots).log_lik
        value += gamma * float(torch.logsumexp(r.log() + log_lik / gamma, dim=1).sum())
        value += gamma * float((bank.prior * r.log()).sum())
    return value


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma", [1.0, 0.5, 3.0])
def test_the_bound_never_falls(seed: int, gamma: float) -> None:
    """Goes red when deltas are weighted by the root of the tokens, when shrinkage acts with all
    silos present, when gamma is left out of one of the two steps, or when stacking stops early."""
    family = silos(seed, number=4, gamma=gamma)
    bank = bank_of(loaded(seeds.stream(seed, "bank"), 3), PRIOR)
    inference = replace(OPEN, gamma=gamma)
    weights, values = [PRIOR] * len(family), []
    for round_ in range(1, 11):
        weights = [assess(silo, bank, inference)[0].train for silo in family]
        values.append(bound(family, bank, weights, gamma))
        updates = [
            train(silo, bank, r, round_, silo_weight="tokens")
            for silo, r in zip(family, weights, strict=True)
        ]
        bank = train_step(bank, total_of(updates), silos=len(family))
        values.append(bound(family, bank, weights, gamma))
    falls = [before - after for before, after in itertools.pairwise(values)]
    assert max(falls) <= 1e-9
    assert values[-1] > values[0] + 1.0


def relabelled(bank: Bank, order: Tensor) -> Bank:
    experts = {name: stack[order] for name, stack in bank.experts.items()}
    return Bank(experts, bank.alive[order], bank.prior[order])


def assert_close(one: Tensor, other: Tensor) -> None:
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_relabelling_slots_permutes_everything() -> None:
    """Goes red when living experts are numbered 0..m-1 anywhere instead of by their slots."""
    order = torch.tensor([3, 0, 4, 2, 1])
    alive = torch.tensor([True, False, True, True, True])
    prior = torch.tensor([0.4, 0.0, 0.3, 0.2, 0.1], dtype=torch.float64)
    bank = Bank({"faces": loaded(seeds.stream(0, "bank"), 5)}, alive, prior)
    other = relabelled(bank, order)
    for silo in silos(0):
        belief, sums = assess(silo, bank, Inference())
        belief_too, sums_too = assess(silo, other, Inference())
        assert belief.share == belief_too.share
        assert_close(belief.predict[order], belief_too.predict)
        assert_close(belief.train[order], belief_too.train)
        for name in ("mass", "contributors", "gain", "gain_variance"):
            assert_close(sums.arrays()[name][order], sums_too.arrays()[name])
        assert_close(sums.displaced[order][:, order], sums_too.displaced)
        assert_close(sums.score, sums_too.score)
        assert_close(
            assess_step(bank, sums).prior[order],
            assess_step(other, sums_too).prior,
        )
        change = train(silo, bank, belief.train, 1)
        change_too = train(silo, other, belief_too.train, 1)
        assert_close(change.weight[order], change_too.weight)
        assert_close(change.delta["faces"][order], change_too.delta["faces"])
        assert_close(
            train_step(bank, change, silos=6).experts["faces"][order],
            train_step(other, change_too, silos=6).experts["faces"],
        )


@pytest.mark.parametrize("rule", ["sqrt", "equal", "tokens"])
def test_one_expert_is_federated_averaging(rule) -> None:
    world = bigram.World.planted(0, domains=2)
    family = bigram.silos(world, 0, number=5, factors=("A", "B"))
    bank = world.start(0, experts=1)
    updates = [train(silo, bank, torch.ones(1).double(), 1, silo_weight=rule) for silo in family]
    stepped = train_step(bank, total_of(updates), silos=5)
    counts = [importance(silo.size, rule) for silo in family]
    for name, start in bank.experts.items():
        local = [silo.fit(bank.experts, [0], torch.ones(1).double(), 1) for silo in family]
        changes = [n * fit.delta[name] for n, fit in zip(counts, local, strict=True)]
        assert torch.equal(stepped.experts[name], start + 1 / sum(counts) * sum(changes))
        models = [n * (start + f.delta[name]) for n, f in zip(counts, local, strict=True)]
        assert torch.allclose(stepped.experts[name], sum(models) / sum(counts), atol=1e-12)


def test_importance_is_what_its_name_says() -> None:
    assert [importance(100, rule) for rule in ("equal", "sqrt", "tokens")] == [1.0, 10.0, 100.0]


def test_one_gradient_step_of_every_silo_is_the_centralised_em_step() -> None:
    """The reference is the gradient of the pooled evidence by autograd, with no alpha in it.

    Goes red when alpha is counted twice, when n0 does not vanish, or silos weigh by roots.
    """
    world = bigram.World.planted(1, domains=3)
    options = {"optimiser": "sgd", "steps": 1, "learning_rate": 0.3, "factors": ("A", "B")}
    family = bigram.silos(world, 1, number=6, **options)
    rng = seeds.stream(1, "experts")
    start = {
        name: stack + 0.3 * torch.from_numpy(rng.standard_normal(stack.shape))
        for name, stack in world.start(1, experts=3).experts.items()
    }
    bank = Bank.start(start, alive=3)
    beliefs = torch.from_numpy(rng.dirichlet([1.0] * 3, size=6))
    updates = [
        train(silo, bank, r, 1, silo_weight="tokens")
        for silo, r in zip(family, beliefs, strict=True)
    ]
    stepped = train_step(bank, total_of(updates), silos=6)

    leaves = {name: stack.clone().requires_grad_() for name, stack in start.items()}
    log_probs, evidence, mass = world.log_probs(leaves), 0.0, torch.zeros(3).double()
    for silo, r in zip(family, beliefs, strict=True):
        joint = r.log() + log_probs[:, silo.train[:, 1], silo.train[:, 0]].T
        evidence = evidence + torch.logsumexp(joint, dim=1).sum()
        mass += torch.softmax(joint.detach(), dim=1).sum(dim=0)
    gradients = torch.autograd.grad(evidence, list(leaves.values()))
    for (name, stack), gradient in zip(start.items(), gradients, strict=True):
        expected = stack + 0.3 * gradient / mass.view(-1, 1, 1)
        assert torch.allclose(stepped.experts[name], expected, rtol=0, atol=1e-12)


def partial(shrinkage: float, *, present: int) -> tuple[Bank, Bank]:
    bank = bank_of(loaded(seeds.stream(2, "bank"), 3))
    updates = [train(silo, bank, PRIOR, 1) for silo in silos(2)[:present]]
    return bank, train_step(bank, total_of(updates), silos=6, shrinkage=shrinkage)


def test_absent_silos_damp_the_step_by_average_silos() -> None:
    bank, free = partial(0.0, present=3)
    _, damped = partial(2.0, present=3)
    updates = total_of([train(silo, bank, PRIOR, 1) for silo in silos(2)[:3]])
    n0 = 2.0 * (1 - 3 / 6) * float(updates.silo_weight) / 3
    factor = (updates.weight / (updates.weight + n0)).view(-1, 1)
    moved = damped.experts["faces"] - bank.experts["faces"]
    assert_close(moved, factor * (free.experts["faces"] - bank.experts["faces"]))


def test_with_all_silos_present_nothing_is_damped() -> None:
    one, other = partial(0.0, present=6)[1], partial(5.0, present=6)[1]
    assert torch.equal(one.experts["faces"], other.experts["faces"])


def test_an_expert_that_nobody_trained_stays() -> None:
    bank = bank_of(loaded(seeds.stream(3, "bank"), 3))
    only_two = torch.tensor([0.6, 0.0, 0.4], dtype=torch.float64)
    total = total_of([train(silo, bank, only_two, 1) for silo in silos(3)])
    stepped = train_step(bank, total, silos=6)
    assert torch.equal(stepped.experts["faces"][1], bank.experts["faces"][1])
    assert not torch.equal(stepped.experts["faces"][0], bank.experts["faces"][0])


def test_tensors_that_were_not_trained_stay_and_types_are_kept() -> None:
    experts = {"A": torch.ones(2, 3), "B": torch.zeros(2, 3, dtype=torch.bfloat16)}
    bank = Bank.start(experts, alive=2)

    class Fixed(Dice):
        def fit(self, experts: Experts, slots: object, weights: Tensor, round_: int) -> Fit:
            return Fit({"B": torch.ones(2, 3)}, torch.tensor([0.5, 0.5]), 1.0, 4)

    update = train(Fixed(torch.arange(4)), bank, torch.tensor([0.5, 0.5]), 1)
    stepped = train_step(bank, update, silos=1)
    assert stepped.experts["A"] is experts["A"]
    assert stepped.experts["B"].dtype is torch.bfloat16
    assert stepped.experts["B"].float().tolist() == [[1.0] * 3] * 2


def test_an_absent_silo_changes_nothing_but_its_terms() -> None:
    family = silos(4)
    bank = bank_of(loaded(seeds.stream(4, "bank"), 3))
    before = {name: stack.clone() for name, stack in bank.experts.items()}
    found = [assess(silo, bank, Inference()) for silo in family]
    updates = [
        train(silo, bank, belief.train, 1) for silo, (belief, _) in zip(family, found, strict=True)
    ]
    assert torch.equal(before["faces"], bank.experts["faces"])
    for sums in ([sums for _, sums in found], updates):
        whole = functools.reduce(operator.add, sums).arrays()
        rest = functools.reduce(operator.add, sums[1:]).arrays()
        for name, array in sums[0].arrays().items():
            assert torch.allclose(whole[name] - rest[name], array, rtol=0, atol=1e-12)


def test_a_silo_is_scored_on_its_held_out_examples_alone() -> None:
    """Goes red when top-up examples enter the score; the weights do see them."""

    class ToppedUp(Dice):
        def probe(self, experts: Experts, slots: list[int]) -> Probe:
            whole = super().probe(experts, slots)
            return replace(whole, held_out=2)

    silo = silos(5)[0]
    bank = bank_of(loaded(seeds.stream(5, "bank"), 3))
    topped_up, alone = ToppedUp(silo.rolls), Dice(silo.rolls[:20])
    belief, sums = assess(topped_up, bank, Inference())
    assert float(sums.tokens) == 20.0
    assert torch.equal(sums.gain, assess(alone, bank, Inference())[1].gain)
    assert torch.equal(belief.train, assess(silo, bank, Inference())[0].train)


def test_a_silo_with_nothing_held_out_still_answers() -> None:
    class Unscored(Dice):
        def probe(self, experts: Experts, slots: list[int]) -> Probe:
            return replace(super().probe(experts, slots), held_out=0)

    bank = bank_of(loaded(seeds.stream(6, "bank"), 3))
    _, sums = assess(Unscored(silos(6)[0].rolls), bank, Inference())
    assert float(sums.tokens) == float(sums.score) == 0.0


def test_an_expert_that_diverged_is_named() -> None:
    faces = loaded(seeds.stream(7, "bank"), 3)
    faces[1] = torch.nan
    with pytest.raises(RunError, match=r"experts \[1\].*learning-rate"):
        assess(silos(7)[0], bank_of(faces), Inference())
