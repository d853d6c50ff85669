"""The private slot in the E-step: it predicts, and nothing that is summed looks at it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.round import Belief, Inference, assess
from fedvemoe_app.em.scores import scored
from fedvemoe_app.em.state import Bank
from tests.dice import Dice, bank_of, loaded, silos

BANK: Bank = bank_of(loaded(seeds.stream(0, "bank"), 3))
SILO: Dice = silos(2)[1]


def own(gain: float) -> Tensor:
    """Return nats per token of an own expert that beats every shared one by ``gain``."""
    return SILO.probe(BANK.experts, BANK.slots).log_lik.max(dim=1).values + gain


def uneven() -> Tensor:
    """Return an own expert that is better on some faces and worse on others."""
    shared = SILO.probe(BANK.experts, BANK.slots).log_lik.max(dim=1).values
    return shared + torch.where(SILO.rolls == SILO.rolls[0], 1.5, -1.5)


def doubtful(shift: float) -> Tensor:
    """Return an own expert as good as the bank, but for what examples differ and ``shift``."""
    probe = SILO.probe(BANK.experts, BANK.slots)
    bank = scored(probe.scored, probe.owners, BANK.prior[torch.tensor(BANK.slots)])
    return bank + torch.where(probe.owners % 4 < 2, 0.5, -0.5) + shift


def predicting(private: Tensor | None, inference: Inference | None = None) -> Belief:
    return assess(SILO, BANK, inference or Inference(), private=private)[0]


@pytest.mark.parametrize("gain", [-30.0, -0.2, 0.0, 0.5, 30.0])
def test_the_weights_that_predict_sum_to_one(gain: float) -> None:
    belief = predicting(own(gain))
    assert float(belief.predict.sum()) + belief.private == pytest.approx(1.0)


def test_an_own_expert_weighs_what_it_is_worth() -> None:
    assert predicting(None).private == predicting(own(-30.0)).private == 0.0
    assert predicting(own(30.0)).private == pytest.approx(1.0)
    assert 0.0 < predicting(uneven()).private < 1.0


def test_it_predicts_alone_where_the_mixture_is_shown_to_be_worse() -> None:
    """What the probe shows to be worse must not make a silo worse."""
    for better in (own(0.0), own(0.01), own(0.5), doubtful(0.2)):
        belief = predicting(better)
        assert belief.private == belief.share == 1.0
        assert not belief.predict.any()


def test_in_doubt_the_mixture_predicts() -> None:
    """The own expert was stopped on this probe: a lead within the error is no evidence."""
    assert 0.0 < predicting(doubtful(0.05)).private < 1.0


def test_where_tokens_do_not_tell_the_bank_is_the_better_guess() -> None:
    same = SILO.probe(BANK.experts, BANK.slots).log_lik[:, 0]
    alike = bank_of(BANK.experts["faces"][:1])
    belief, _ = assess(SILO, alike, Inference(), private=same)
    assert belief.private < 0.2


def test_a_useless_own_expert_changes_no_prediction() -> None:
    bare, with_own = predicting(None), predicting(own(-30.0))
    assert torch.allclose(bare.predict, with_own.predict, atol=1e-3)
    assert bare.share == with_own.share


def test_what_is_summed_and_trained_does_not_look_at_it() -> None:
    """Goes red when the own column enters mass, scores or the choice of what to train."""
    (bare, without), (belief, with_own) = (
        assess(SILO, BANK, Inference(), private=private) for private in (None, own(1.0))
    )
    assert torch.equal(bare.train, belief.train)
    for name, array in without.arrays().items():
        assert torch.equal(array, with_own.arrays()[name])


def test_it_is_weighed_on_held_out_tokens_alone() -> None:
    class ToppedUp(Dice):
        def probe(self, experts, slots):  # type: ignore[no-untyped-def]
            return replace(super().probe(experts, slots), held_out=2)

    belief, _ = assess(ToppedUp(SILO.rolls), BANK, Inference(), private=own(0.1)[:20])
    other, _ = assess(Dice(SILO.rolls[:20]), BANK, Inference(), private=own(0.1)[:20])
    assert belief.private == pytest.approx(other.private)


@pytest.mark.parametrize("rule", ["argmin", "sequence"])
def test_where_an_example_has_one_expert_the_filter_never_switches(rule: str) -> None:
    belief = predicting(None, Inference(rule=rule))  # type: ignore[arg-type]
    assert belief.share == (0.0 if rule == "sequence" else 1.0)
