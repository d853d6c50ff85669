"""The language family: a silo's examples under the bank it is handed, in the order it is handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.em import successive
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import LanguageFamily, Training, default_row_cap, factor_of
from tests.model import tiny

ROWS = tiny.examples(20, seed=1)
DATA = EncodedTasks(
    train=tuple(ROWS[:10]),
    probe=tuple(ROWS[10:13]),
    top_up=tuple(ROWS[3:5]),
    test=tuple(ROWS[13:]),
    answered=(),
)
Make = Callable[..., LanguageFamily]


@pytest.fixture
def family(attach: Callable[..., Experts]) -> Make:
    """Make a family on random experts."""
    experts = attach()

    def make(**changes: Any) -> LanguageFamily:
        training = Training(steps=3, batch_size=4, learning_rate=0.01)
        made = LanguageFamily("silo-00", experts, DATA, training, row_cap=500, seed=0)
        return replace(made, **changes)

    return make


def bank(family: LanguageFamily, experts: int = 3, seed: int = 3) -> dict[str, Tensor]:
    """Return random expert tensors [experts, ...]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.1 * torch.randn(experts, *shape, generator=generator)
        for name, (_, *shape) in family.experts.shapes.items()
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_factors_alternate_from_b() -> None:
    assert [factor_of(r, "alternate") for r in (1, 2, 3, 4)] == ["B", "A", "B", "A"]
    assert {factor_of(r, "B") for r in (1, 2)} == {"B"}
    assert {factor_of(r, "both") for r in (1, 2)} == {"both"}


def test_size_is_the_target_tokens_of_the_training_data(family: Make) -> None:
    assert family().size == sum(len(row.ids) - row.prompt for row in ROWS[:10])


def test_the_probe_comes_first_and_what_tops_it_up_last(family: Make) -> None:
    made = family()
    experts = bank(made)
    probe = made.probe(experts, [2, 0])
    assert probe.held_out == 3
    assert probe.lengths == tuple(row.targets for row in (*ROWS[10:13], *ROWS[3:5]))
    assert probe.log_lik.shape == (sum(probe.lengths), 2)
    start = 0
    for row, length in zip((*ROWS[10:13], *ROWS[3:5]), probe.lengths, strict=True):
        alone, _ = made.log_lik([row], [2, 0])
        torch.testing.assert_close(
            probe.log_lik[start : start + length], alone, rtol=1e-5, atol=1e-6
        )
        start += length


def test_the_bank_handed_in_is_the_bank_that_speaks(family: Make) -> None:
    made = family()
    one, other = bank(made, seed=3), bank(made, seed=4)
    first = made.probe(one, [0, 1, 2]).log_lik
    assert not torch.allclose(made.probe(other, [0, 1, 2]).log_lik, first)
    assert torch.equal(made.probe(one, [0, 1, 2]).log_lik, first)


def test_a_bank_of_fewer_living_experts_than_slots_is_no_less_exact(family: Make) -> None:
    made = family()
    whole = bank(made)
    everybody = made.probe(whole, [0, 1, 2]).log_lik
    living = {name: stack[[0, 2]] for name, stack in whole.items()}
    torch.testing.assert_close(
        made.probe(living, [0, 1]).log_lik, everybody[:, [0, 2]], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("round_", "factors", "ending"),
    [(1, "alternate", ".B"), (2, "alternate", ".A"), (2, "B", ".B")],
)
def test_a_fit_changes_the_factor_of_the_round(
    family: Make, round_: int, factors: Any, ending: str
) -> None:
    made = family(training=Training(3, 4, 0.01, factors=factors))
    fit = made.fit(bank(made), [0, 2], torch.tensor([0.5, 0.5]).double(), round_)
    assert {name[-2:] for name in fit.delta} == {ending}
    assert all(stack.shape[0] == 2 and stack.abs().max() > 0 for stack in fit.delta.values())
    assert fit.mean_alpha.sum() == pytest.approx(1.0)


def test_both_factors_may_be_fitted_at_once(family: Make) -> None:
    made = family(training=Training(3, 4, 0.01, factors="both"))
    fit = made.fit(bank(made), [1], torch.ones(1).double(), 1)
    assert set(fit.delta) == set(made.experts.names)


def test_a_fit_leaves_the_bank_as_it_was(family: Make) -> None:
    made = family()
    experts = bank(made)
    before = {name: stack.clone() for name, stack in experts.items()}
    made.fit(experts, [0, 1], torch.tensor([0.5, 0.5]).double(), 1)
    assert same(experts, before)


def test_seed_name_and_round_draw_the_batches_and_nothing_else_does(family: Make) -> None:
    def delta(round_: int = 1, **changes: Any) -> dict[str, Tensor]:
        made = family(**changes)
        return made.fit(bank(made), [0], torch.ones(1).double(), round_).delta

    first = delta()
    torch.manual_seed(99)
    assert same(delta(), first)
    for other in (delta(seed=1), delta(name="silo-01"), delta(round_=3)):
        assert not same(other, first)


def test_a_fit_on_the_silos_data_lowers_its_loss(family: Make) -> None:
    made = family(training=Training(30, 5, 0.02))
    start = bank(made, experts=1)
    fit = made.fit(start, [0], torch.ones(1).double(), 1)
    trained = {name: stack + fit.delta.get(name, 0.0) for name, stack in start.items()}
    nats = []
    for experts in (start, trained):
        made.probe(experts, [0])  # loads them
        nats.append(-float(made.log_lik(DATA.train, [0])[0].mean()))
    assert nats[1] < nats[0] - 0.1


def test_the_start_gradient_is_that_of_b_under_the_first_expert(family: Make) -> None:
    made = family()
    start = made.experts.initial(0)
    found = made.start_gradient(start)
    assert set(found) == {name for name in made.experts.names if name.endswith(".B")}
    assert all(found[name].shape == made.experts.shapes[name][1:] for name in found)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in found.values())
    assert same(made.start_gradient(start), found)
    assert all((made.experts.state()[name] == 0).all() for name in found)


def test_rows_of_one_pass_depend_on_the_machine() -> None:
    assert default_row_cap(torch.device("cpu")) < default_row_cap(torch.device("cuda"))


@pytest.mark.parametrize(
    "option", [{"posterior": "sequence"}, {"proximal": 50.0}, {"expert_weight": "silo"}]
)
def test_what_a_strategy_asks_of_training_reaches_the_fit(family: Make, option: Any) -> None:
    plain, asked = (
        made.fit(bank(made), [0, 2], torch.tensor([0.4, 0.6]).double(), 1)
        for made in (family(), family(training=Training(3, 4, 0.01, **option)))
    )
    if "expert_weight" in option:
        assert asked.mean_alpha.tolist() == [1.0, 1.0]
        assert same(asked.delta, plain.delta)
    else:
        assert not same(asked.delta, plain.delta)


def test_a_probe_in_two_parts_asks_less_and_keeps_tokens_in_order(
    attach: Callable[..., Experts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goes red when parts are put together in another order than the examples'."""
    able = torch.tensor([True, False, True, False, True])
    judged = successive.judged
    monkeypatch.setattr(successive, "judged", lambda *first: (able, *judged(*first)[1:]))
    experts = attach(slots=5)
    data = replace(DATA, probe=tuple(tiny.examples(12, seed=5)))
    training = Training(steps=1, batch_size=4, learning_rate=0.01)
    full = LanguageFamily("silo-00", experts, data, training, row_cap=500, seed=0)
    tensors = bank(full, experts=5)
    expected = full.probe(tensors, range(5))
    rows: list[int] = []
    handle = experts.backbone.model.model.layers[0].register_forward_pre_hook(
        lambda _, args: rows.append(args[0].shape[0])
    )
    found = replace(full, probing="successive").probe(tensors, range(5))
    handle.remove()
    assert found.lengths == expected.lengths
    torch.testing.assert_close(
        found.log_lik[:, able], expected.log_lik[:, able], rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(found.log_lik[:, ~able], expected.log_lik[:, ~able])
    first = len(range(0, 14, successive.PART))
    assert sum(rows) == 5 * first + 3 * (14 - first)
    whole = replace(full, probing="successive").probe(tensors, range(3))
    assert torch.equal(whole.log_lik, full.probe(tensors, range(3)).log_lik)  # too few to save
