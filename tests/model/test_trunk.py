"""Experts in the upper half of the layers: the lower half runs once, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from peft import PeftModel

from fedvemoe_app.data.batches import by_length, collate
from fedvemoe_app.model import trunk
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.training import fit
from tests.model import tiny

ROWS = tiny.examples(6)
BATCHES = by_length(ROWS, 36, pad=tiny.EOS)
WEIGHTS = torch.tensor([0.7, 0.3])


def probed(experts, *, keep=False, row_cap=10_000):
    return token_log_lik(experts, BATCHES, [0, 1, 2], row_cap=row_cap, keep=keep)[0]


def decoder(backbone):
    return trunk.decoder_layers(backbone.model)


def rows_seen(layer, seen):
    return layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_files_give_plain_peft_the_same_likelihoods(kind, attach, folders, tmp_path):
    experts = attach(kind, layers="upper")
    tiny.randomise(experts)
    assert all(".1." in name for name in experts.names)
    found = probed(experts)
    for slot in range(3):
        experts.save(slot, tmp_path / str(slot))
        plain: PeftModel = tiny.plain_adapter(folders[kind], tmp_path / str(slot))
        with torch.no_grad():
            assert tiny.relative_error(found[:, slot], tiny.plain_log_lik(plain, ROWS)) < 1e-5


@pytest.mark.parametrize("row_cap", [20, 70, 10_000])
def test_the_lower_half_sees_each_sequence_once(attach, row_cap):
    experts = attach(layers="upper")
    tiny.randomise(experts)
    lower, upper = decoder(experts.backbone)
    below, above = [], []
    handles = [rows_seen(lower.mlp, below), rows_seen(upper.mlp, above)]
    probed(experts, row_cap=row_cap)
    for handle in handles:
        handle.remove()
    assert sum(below) == len(ROWS)
    assert sum(above) == 3 * len(ROWS)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_kept_states_change_nothing_and_save_the_lower_half(kind, attach):
    experts = attach(kind, layers="upper")
    tiny.randomise(experts)
    expected = probed(experts)
    probed(experts, keep=True)
    calls = []
    handle = next(decoder(experts.backbone)[0].children()).register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    tiny.randomise(experts, seed=8)
    other = probed(experts, keep=True)
    tiny.randomise(experts)
    again = probed(experts, keep=True)
    handle.remove()
    assert not calls
    torch.testing.assert_close(again, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(other, expected)


def test_the_oldest_states_go_where_there_are_too_many(attach, monkeypatch):
    experts = attach(layers="upper")
    probed(experts, keep=True)
    each = [experts.trunk.kept.get(batch).nbytes for batch in BATCHES]
    monkeypatch.setattr(trunk, "MOST_KEPT", max(each))
    probed(experts, keep=True)
    kept = [experts.trunk.kept.get(batch) is not None for batch in BATCHES]
    assert sum(kept) == 1


@pytest.mark.parametrize("checkpointed", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_step_equals_separate_peft_adapters(kind, checkpointed, attach, backbones, tmp_path):
    backbone = dataclasses.replace(backbones[kind], checkpointed=checkpointed)
    experts = attach(backbone, layers="upper")
    tiny.randomise(experts)
    for slot in (2, 0):
        experts.save(slot, tmp_path / str(slot))
    models = [tiny.plain_adapter(backbone.name, tmp_path / str(slot)) for slot in (2, 0)]
    log_lik = torch.stack([tiny.plain_log_lik(model, ROWS) for model in models])
    alpha = torch.softmax(WEIGHTS.log()[:, None] + log_lik.detach().double(), dim=0)
    result = fit(
        experts,
        iter([collate(ROWS, range(6), pad=tiny.EOS)]),
        [2, 0],
        WEIGHTS,
        factor="both",
        steps=1,
        learning_rate=1.0,
        row_cap=10_000,
        optimizer="sgd",
        max_grad_norm=math.inf,
    )
    for k, model in enumerate(models):
        gradients = tiny.plain_gradient(model, -(alpha[k] * log_lik[k]).sum() / alpha[k].sum())
        assert gradients.keys() == result.delta.keys()
        for name, gradient in gradients.items():
            assert tiny.relative_error(-result.delta[name][k], gradient) < 1e-5


def test_answers_use_the_same_experts(attach, folders, tmp_path):
    experts = attach(layers="upper")
    tiny.randomise(experts, scale=0.3)
    prompt = list(ROWS[0].ids[: ROWS[0].prompt])
    (answer,) = generate(experts, [prompt], [1], torch.ones(1), 0.1, max_new_tokens=5)
    experts.save(1, tmp_path / "1")
    plain = tiny.plain_adapter(folders["llama"], tmp_path / "1")
    expected = plain.generate(input_ids=torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    assert answer == expected[0, len(prompt) : len(prompt) + len(answer)].tolist()


def test_the_base_is_as_it_was_when_the_experts_are_gone(attach, backbones):
    layers = decoder(backbones["llama"])
    experts = attach(layers="upper")
    assert "forward" in vars(layers[0])
    experts.close()
    assert "forward" not in vars(layers[0])
    assert not layers[1]._forward_pre_hooks
