"""The silo's part: what it adds to the sums, and what none of them may depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em import round as em
from fedvemoe_app.em.lifecycle import silo as silo_step
from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.lifecycle.refactor import merged
from fedvemoe_app.em.lifecycle.regret import Memory
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.em.lifecycle.sums import seeds as seeds_of
from fedvemoe_app.em.round import Inference
from fedvemoe_app.em.shapes import seeds_shapes, unrest_shapes, wishes_shapes
from fedvemoe_app.em.state import Bank
from tests.bigram import RANK, Bigram, V, World, silos

RULES = Rules(sketch_size=4)
OPEN = torch.ones(3, dtype=torch.bool)


def world() -> World:
    return World.planted(0, domains=3)


def bank(experts: int = 3) -> Bank:
    rng = seeds.stream(0, "experts")
    down = torch.from_numpy(rng.standard_normal((experts, RANK, V)) / 4)
    up = torch.from_numpy(rng.standard_normal((experts, V, RANK)) / 2)
    return Bank.start({"A": down, "B": up}, alive=experts)


def notice(round_: int = 0, **others: object) -> Notice:
    axis = torch.eye(3, 4, dtype=torch.float64)
    slots = (1, 4, 6)
    return replace(
        Notice(round_, slots, (0, 0, 0), axis, torch.zeros(3, dtype=torch.float64)), **others
    )


def family(number: int = 3) -> list[Bigram]:
    return silos(world(), 0, number=number, smallest=400)


def assessed(silo: Bigram, private: Tensor | None = None, **others: object):
    return silo_step.assess(
        silo, bank(), Inference(), notice(**others), None, RULES, private=private
    )


def test_the_private_slot_changes_no_sum_but_the_edge() -> None:
    """Bit for bit. Goes red when prior, mass, gain or regret see the private column."""
    for silo in family():
        own = silo.probe(bank().experts, [0], held_out_only=True).log_lik[:, 0] + 0.3
        belief, sums, unrest, memory = assessed(silo, trial=1)
        belief_too, sums_too, unrest_too, memory_too = assessed(silo, own, trial=1)
        for mine, theirs in ((sums, sums_too), (memory, memory_too)):
            for name, array in mine.arrays().items():
                assert torch.equal(array, theirs.arrays()[name]), name
        assert torch.equal(unrest.unhappy, unrest_too.unhappy)
        assert torch.equal(unrest.merged, unrest_too.merged)
        assert not torch.equal(unrest.edge, unrest_too.edge)
        assert torch.equal(belief.train, belief_too.train)
        assert belief.private == 0.0
        assert belief_too.private > 0.1
        assert float(belief_too.predict.sum()) + belief_too.private == pytest.approx(1.0)


def test_a_useless_private_expert_gets_no_weight() -> None:
    silo = family()[0]
    hopeless = torch.full((300,), -30.0, dtype=torch.float64)
    belief = assessed(silo, hopeless)[0]
    assert belief.private == 0.0
    assert float(belief.predict.sum()) == pytest.approx(1.0)


def test_the_private_expert_is_weighed_on_held_out_tokens_alone() -> None:
    """It knows the training examples by heart: there it must not be compared."""

    class ToppedUp(Bigram):
        def probe(self, experts, slots, *, held_out_only=False):
            whole = super().probe(experts, slots)
            return whole if held_out_only else replace(whole, held_out=20)

    silo = family()[0]
    fields = {
        name: getattr(silo, name) for name in ("world", "domain", "train", "held_out", "truth")
    }
    own = silo.probe(bank().experts, [1]).log_lik[:, 0]
    short = assessed(ToppedUp(**fields), own[:200])[0]
    alone = assessed(Bigram(**{**fields, "held_out": silo.held_out[:200]}), own[:200])[0]
    assert short.private == alone.private
    assert torch.equal(short.predict, alone.predict)


def test_without_a_trial_the_edge_is_zero_and_with_one_it_is_the_gain() -> None:
    silo = family()[0]
    assert float(assessed(silo)[2].edge) == 0.0
    _, sums, unrest, _ = assessed(silo, trial=2)
    assert torch.equal(unrest.edge, sums.gain[2])


def test_a_candidate_is_scored_and_touches_nothing_else() -> None:
    silo, plain = family()[0], bank()
    better = plain.expert(0)
    _, sums, _, _ = assessed(silo)
    _, sums_too, unrest, memory = assessed(silo, candidate=better, leaving=1, into=2)
    for name, array in sums.arrays().items():
        assert torch.equal(array, sums_too.arrays()[name]), name
    replaced, _ = silo_step.adopt(plain, memory, better, 2)
    merger = replaced.without(1, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).living()
    expected = em.assess(silo, merger, Inference())[1]
    assert float(unrest.merged) == pytest.approx(float(expected.score), abs=1e-12)


def test_a_merge_of_identical_experts_changes_no_prediction() -> None:
    """In another gauge, at that: through the candidate's assessment, adoption and absorption."""
    turn = torch.linalg.qr(torch.from_numpy(seeds.stream(1, "turn").standard_normal((4, 4)))).Q
    one = bank().expert(1)
    twin = {"A": turn.T @ one["A"], "B": one["B"] @ turn}
    plain, silo = bank().adopt(2, twin), family()[0]
    candidate, _ = merged([twin, one], [0.3, 0.7])
    before, sums, unrest, memory = silo_step.assess(
        silo,
        plain,
        Inference(),
        notice(candidate=candidate, leaving=2, into=1),
        None,
        RULES,
    )
    assert float(unrest.merged) == pytest.approx(float(sums.score), abs=1e-5)
    adopted, memory = silo_step.adopt(plain, memory, candidate, 1)
    merger = adopted.without(2, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)).living()
    after = em.assess(silo, merger, Inference())[0]

    def predictions(some: Bank, belief: em.Belief) -> Tensor:
        log_probs = world().log_probs(some.experts)
        return torch.logsumexp(log_probs + belief.predict.log().view(-1, 1, 1), dim=0).exp()

    assert torch.allclose(predictions(plain, before), predictions(merger, after), atol=1e-5)
    assert torch.allclose(memory.log_lik[:, 1], memory.log_lik[:, 2], atol=1e-9)


def dissatisfied(silo: Bigram, side: int) -> tuple[Tensor, Memory]:
    belief, _, _, memory = assessed(silo)
    return belief.train, replace(memory, side=side)


def trained(silo: Bigram, call: Call, open_: Tensor = OPEN, side: int = 1):
    weights, memory = dissatisfied(silo, side)
    return weights, memory, silo_step.train(silo, bank(), weights, 1, call, open_, memory, RULES)


def test_without_a_call_the_update_is_that_of_a_plain_round() -> None:
    silo = family()[0]
    weights, _, (update, wish, seed, _) = trained(silo, Call())
    plain = em.train(silo, bank(), weights, 1)
    for name, array in plain.arrays().items():
        assert torch.equal(array, update.arrays()[name]), name
    assert seed is None
    assert torch.equal(wish.wishing, (weights > 0).double())
    lengths = wish.wishes.norm(dim=1)
    assert lengths.tolist() == pytest.approx(wish.wishing.tolist())
    assert torch.equal(wish.wishes_squared, wish.wishes**2)


def test_the_score_after_training_is_that_of_the_trained_experts() -> None:
    silo = family()[0]
    _, memory, (update, _, _, after) = trained(silo, Call())
    moved = em.train_step(bank(), update, silos=1)
    probe = silo.probe(moved.experts, [0, 1, 2])
    expected = silo_step.scored(probe.log_lik, memory.owners, bank().prior)
    assert torch.allclose(after.local, expected, atol=1e-9)
    assert float(after.local.mean()) > float(em.assess(silo, bank(), Inference())[1].score)


def test_a_called_silo_adds_its_parent_as_it_trained_it() -> None:
    silo = family()[0]
    _, memory, _ = trained(silo, Call())
    _, _, (update, _, seed, _) = trained(silo, Call(parent=memory.main, side=1))
    column = [1, 4, 6].index(memory.main)
    own = update.delta["B"][column] / update.weight[column]
    assert float(seed.seeds) == 1.0
    assert torch.allclose(seed.seed["B"][0] / seed.seed_weight, own, atol=1e-12)
    for other in (Call(parent=memory.main, side=0), Call(parent=99, side=1)):
        _, _, (_, _, seed, _) = trained(silo, other)
        assert not any(bool(array.any()) for array in seed.arrays().values())
        assert set(seed.arrays()) == set(seeds_shapes({"B": (3, V, RANK)}))


def test_a_resting_parent_gets_seeds_but_no_vectors() -> None:
    """Goes red when a sum over those who do not seed can be had by subtraction."""
    silo = family()[0]
    _, memory, _ = trained(silo, Call())
    column = [1, 4, 6].index(memory.main)
    closed = OPEN.clone()
    closed[column] = False
    call = Call(parent=memory.main, side=1)
    _, _, (update, wish, seed, _) = trained(silo, call, closed)
    assert float(seed.seeds) == 1.0
    assert float(update.weight[column]) == 0.0
    assert not update.delta["B"][column].any()
    assert not update.squares["B"][column].any()
    assert not wish.wishes[column].any()
    assert float(wish.wishing[column]) == 0.0


def test_a_silo_whose_experts_are_all_closed_adds_nothing() -> None:
    silo = family()[0]
    _, memory, (update, wish, seed, after) = trained(silo, Call(parent=4, side=0), ~OPEN)
    assert not update.weight.any()
    assert not wish.wishing.any()
    assert seed is None
    assert after is memory


def test_names_and_shapes_are_those_the_server_tells() -> None:
    silo = family()[0]
    unrest = assessed(silo)[2]
    _, _, (_, wish, _, _) = trained(silo, Call())
    for record, shapes in ((unrest, unrest_shapes(3)), (wish, wishes_shapes(3, 4))):
        assert {n: tuple(a.shape) for n, a in record.arrays().items()} == shapes


def test_a_seed_weighs_by_the_silos_weight() -> None:
    silo = family()[0]
    weights, _, _ = trained(silo, Call())
    slots, fit = em.fitted(silo, bank(), weights, 1)
    whole = seeds_of(fit, 0, 2.0) + seeds_of(fit, None, 5.0)
    assert float(whole.seeds) == 1.0
    assert float(whole.seed_weight) == 2.0
    assert torch.allclose(whole.seed["B"][0], 2.0 * fit.delta["B"][0])
    assert len(slots)


def test_the_lifecycle_of_a_silo_without_memory_begins_anew() -> None:
    """One that missed the assessment trains all the same, and has no say in the bank."""
    silo = family()[0]
    weights, _ = dissatisfied(silo, 1)
    _, _, seed, after = silo_step.train(
        silo, bank(), weights, 1, Call(parent=1, side=1), OPEN, None, RULES
    )
    assert after is None
    assert float(seed.seeds) == 0.0
