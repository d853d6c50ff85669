"""Packed and padded rows give the same numbers, on every base that keeps sequences apart."""

from __future__ import annotations

import dataclasses
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from fedvemoe_app.data.batches import collate, lay_out
from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.data.packing import Packing
from fedvemoe_app.model import packing
from fedvemoe_app.model.family import LanguageFamily, Training
from fedvemoe_app.model.footprint import Shape
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.packing import attention_cost, fault, packing_on
from fedvemoe_app.model.training import b_gradient, fit
from tests.model import tiny

ROWS = tiny.examples(8)
WEIGHTS = torch.tensor([0.7, 0.3])
SHARED = [[0, 3, 5], [7], [1, 2], [6, 4]]
PADDED = collate(ROWS, range(8), pad=tiny.EOS)
PACKED = lay_out(ROWS, SHARED, pad=tiny.EOS)


def probed(experts, batches, **options):
    return token_log_lik(experts, batches, [2, 0, 1], **({"row_cap": 10_000} | options))


def stepped(experts, start, batch, posterior="token", **options):
    experts.load(start)
    return fit(
        experts,
        iter([batch]),
        [2, 0],
        WEIGHTS,
        steps=1,
        optimizer="sgd",
        max_grad_norm=math.inf,
        factor="both",
        learning_rate=1.0,
        posterior=posterior,
        **({"row_cap": 10_000} | options),
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", ["all", "upper"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_packed_likelihoods_are_the_padded_ones(kind, layers, attention, attach, backbones):
    experts = attach(kind, layers=layers)
    tiny.randomise(experts)
    expected, counts = probed(experts, [PADDED])
    experts.backbone.model.set_attn_implementation(attention)
    try:
        for row_cap in (10_000, 70, 1):
            found, lengths = probed(experts, [PACKED], row_cap=row_cap)
            assert lengths.tolist() == counts.tolist() == [row.targets for row in ROWS]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    finally:
        experts.backbone.model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 3, 0, 2]])
def test_the_order_of_rows_and_within_them_does_not_matter(order, attach):
    experts = attach()
    tiny.randomise(experts)
    expected, _ = probed(experts, [PACKED])
    other = lay_out(ROWS, [SHARED[place][::-1] for place in order], pad=3)
    torch.testing.assert_close(probed(experts, [other])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("layers", ["all", "upper"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_packed_step_is_the_padded_one(kind, layers, checkpointed, attach, backbones):
    experts = attach(dataclasses.replace(backbones[kind], checkpointed=checkpointed), layers=layers)
    start = tiny.randomise(experts)
    expected = stepped(experts, start, PADDED)
    tiny.assert_same_fit(stepped(experts, start, PACKED), expected, loss=1e-5)
    tiny.assert_same_fit(stepped(experts, start, PACKED, row_cap=70), expected, loss=1e-5)


@pytest.mark.parametrize("row_cap", [70, 10_000])
def test_an_example_still_draws_its_own_expert(row_cap, attach):
    """Goes red when a row that holds several examples counts as one of them."""
    experts = attach()
    start = tiny.randomise(experts)
    expected = stepped(experts, start, PADDED, posterior="sequence")
    found = stepped(experts, start, PACKED, posterior="sequence", row_cap=row_cap)
    tiny.assert_same_fit(found, expected, loss=1e-5)


def test_the_start_gradient_is_the_same(attach):
    experts = attach()
    tiny.randomise(experts)
    expected, found = (b_gradient(experts, [batch]) for batch in (PADDED, PACKED))
    for name, gradient in expected.items():
        assert tiny.relative_error(found[name], gradient) < 1e-5


def test_kept_states_are_those_of_the_same_examples(attach):
    """The same tokens, with another beginning of the second example: another text."""
    experts = attach(layers="upper")
    tiny.randomise(experts)
    one = lay_out(ROWS, [[0, 1]], pad=tiny.EOS)
    first, second = one.lengths[0]
    other = dataclasses.replace(one, lengths=((first - 1, second + 1),))
    expected = probed(experts, [other])[0]
    probed(experts, [one], keep=True)
    torch.testing.assert_close(probed(experts, [other], keep=True)[0], expected)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_bases_that_go_by_positions_can_pack(kind, backbones):
    assert fault(backbones[kind]) == ""


def test_a_window_that_slides_stays_within_its_sequence(backbones):
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "sliding_window": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    model = MistralForCausalLM(MistralConfig(**shape, **heads)).eval()
    assert fault(dataclasses.replace(backbones["llama"], model=model)) == ""


def unfit(kind):
    shape = {"vocab_size": 60, "hidden_size": 32}
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(**shape, n_layer=2, n_head=2)).eval()
    return MambaForCausalLM(MambaConfig(**shape, num_hidden_layers=2, state_size=4)).eval()


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_base_that_does_not_go_by_them_pads_and_says_why_once(kind, backbones, caplog):
    torch.manual_seed(0)
    backbone = dataclasses.replace(backbones["llama"], model=unfit(kind))
    with caplog.at_level(logging.INFO, logger="flwr"):
        assert packing_on(backbone, "auto", 100, 1000) is None
        assert packing_on(backbone, "auto", 100, 1000) is None
    said = [one.getMessage() for one in caplog.records if one.name == "flwr"]
    assert len(said) == 1
    assert "padded, not packed" in said[0]
    assert kind in said[0].lower()


def test_a_base_whose_sequences_leak_is_found_out(backbones, monkeypatch):
    """What flash attention does with several packed rows: positions begin anew, masks do not."""
    model = backbones["llama"].model
    base = model.base_model
    forward = type(base).forward

    def leaking(self, input_ids, position_ids=None, **options):
        mask = torch.ones_like(input_ids)
        given = {"attention_mask": mask, "position_ids": position_ids}
        return forward(self, input_ids=input_ids, **given, **options)

    monkeypatch.setattr(type(base), "forward", leaking)
    backbone = dataclasses.replace(backbones["llama"])
    assert "see the one before" in fault(backbone)


def test_off_asks_nothing_of_the_base(backbones, monkeypatch):
    monkeypatch.setattr(packing, "fault", lambda _: pytest.fail("asked"))
    assert packing_on(backbones["llama"], "off", 100, 1000) is None


def test_attention_costs_more_beside_small_layers():
    narrow = SimpleNamespace(hidden=128, layers=3, linear=500_000)
    wide = SimpleNamespace(hidden=3584, layers=28, linear=6_500_000_000)
    assert attention_cost(narrow) > 30 * attention_cost(wide) > 0


def mixed(count, seed):
    """Return examples of few and of many tokens in turn."""
    short, long = tiny.examples(count, seed), tiny.examples(count, seed + 1)
    return tuple(
        dataclasses.replace(one, ids=(*other.ids[:-1], *one.ids)) if n % 4 == 0 else one
        for n, (one, other) in enumerate(zip(short, long, strict=True))
    )


def test_a_silo_packs_what_it_trains_on_and_learns_the_same(attach):
    experts = attach()
    start = tiny.randomise(experts)
    data = EncodedTasks(train=mixed(16, 3), probe=mixed(9, 5), top_up=(), test=(), answered=())
    training = Training(steps=3, batch_size=8, learning_rate=0.01, factors="both")
    tokens, found = {}, {}
    layer = experts.backbone.model.model.layers[0]
    for wish in ("auto", "off"):
        family = LanguageFamily("a", experts, data, training, 10_000, seed=0, packing=wish)
        seen = []
        handle = layer.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0].shape[0] * given[0].shape[1])
        )
        found[wish] = family.fit(start, [0, 1], torch.tensor([0.5, 0.5]).double(), 1)
        handle.remove()
        tokens[wish] = sum(seen)
        found[wish, "probe"] = family.probe(start, [0, 1]).log_lik
    assert tokens["auto"] < 0.9 * tokens["off"]
    assert found["auto"].loss == pytest.approx(found["off"].loss, rel=1e-3)
    torch.testing.assert_close(found["auto", "probe"], found["off", "probe"], rtol=1e-5, atol=1e-5)


def test_packing_follows_the_shape_of_its_base(backbones):
    made = packing_on(backbones["llama"], "auto", 100, 1000)
    cost = attention_cost(Shape.of(backbones["llama"].model))
    assert made == Packing(cost, longest=100, budget=1000)
