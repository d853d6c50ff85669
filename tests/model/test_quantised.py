"""Bases that bitsandbytes holds in 4 or 8 bits, and experts on them."""

from __future__ import annotations

import gc
import logging
import math
import weakref

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.data.batches import by_length, collate
from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.training import fit
from fedvemoe_app.silo import resident_experts
from tests.model import tiny

pytest.importorskip("bitsandbytes")
ROWS = tiny.examples(5)
BATCH = collate(ROWS, range(5), pad=tiny.EOS)
WEIGHTS = torch.tensor([0.5, 0.5])
LAYER = {4: "Linear4bit", 8: "Linear8bit"}


@pytest.fixture(scope="module", params=[(4, "llama"), (4, "qwen2"), (8, "llama"), (8, "qwen2")])
def quantised(request, folders):
    bits, kind = request.param
    return load_backbone(folders[kind], bits=bits, device="cpu")


@pytest.fixture(scope="module", params=[4, 8])
def exact(request, folders):
    """A quantised base that computes in float32."""
    return load_backbone(folders["llama"], bits=request.param, dtype="float32", device="cpu")


def sgd_step(experts, start):
    experts.load(start)
    options = {"factor": "both", "steps": 1, "learning_rate": 1.0, "row_cap": 10_000}
    options |= {"optimizer": "sgd", "max_grad_norm": math.inf}
    return fit(experts, iter([BATCH]), [1, 0], WEIGHTS, **options)


def probe(experts, rows, slots):
    return token_log_lik(experts, by_length(rows, 100, pad=tiny.EOS), slots, row_cap=10_000)[0]


def test_a_base_is_quantised_but_for_its_head(quantised):
    layers = {name: type(part).__name__ for name, part in quantised.model.named_modules()}
    assert layers["model.layers.0.self_attn.q_proj"] == LAYER[quantised.bits]
    assert layers["lm_head"] == "Linear"
    assert quantised.model.lm_head.weight.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in quantised.model.parameters())


def test_the_fingerprint_does_not_see_the_quantisation(quantised, backbones):
    kind = quantised.model.config.model_type
    assert quantised.fingerprint == backbones[kind].fingerprint


def test_evaluation_before_training_changes_no_gradient(quantised, attach):
    experts = attach(quantised)
    start = tiny.randomise(experts)
    clean = sgd_step(experts, start)
    experts.load(start)
    token_log_lik(experts, [BATCH], [0, 1, 2], row_cap=10_000)
    generate(experts, [[1, 2, 3]], [0, 1], WEIGHTS, 0.1, max_new_tokens=2)
    after = sgd_step(experts, start)
    for name, delta in clean.delta.items():
        assert torch.equal(after.delta[name], delta)


def test_stacked_training_equals_training_alone(exact, attach):
    experts = attach(exact)
    start = tiny.randomise(experts)
    together = sgd_step(experts, start)
    log_lik, _ = token_log_lik(experts, [BATCH], [1, 0], row_cap=10_000)
    for j, slot in enumerate([1, 0]):
        alone, _ = token_log_lik(experts, [BATCH], [slot], row_cap=10_000)
        torch.testing.assert_close(log_lik[:, j], alone[:, 0], rtol=1e-5, atol=1e-5)
    assert all(delta[j].any() for delta in together.delta.values() for j in range(2))


def test_training_learns(exact, attach):
    experts = attach(exact)
    experts.load(experts.initial(0))
    options = {"factor": "B", "steps": 15, "learning_rate": 1e-2, "row_cap": 10_000}
    losses = [fit(experts, iter([BATCH] * 15), [0, 1], WEIGHTS, **options).loss for _ in range(2)]
    assert losses[1] < 0.8 * losses[0]


def test_a_width_that_is_no_multiple_of_the_block_is_refused_in_4_bits_alone(tmp_path, attach):
    folder = tiny.build("llama", tmp_path / "narrow", hidden=96)
    with pytest.raises(BaseModelError, match=r"96 inputs, not a multiple of 64.*use-4bit.*8bit"):
        load_backbone(folder, bits=4, device="cpu")
    experts = attach(load_backbone(folder, bits=8, device="cpu"))
    assert probe(experts, ROWS, [0]).isfinite().all()


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_the_rows_beside_it(folders, attach, bits, kind):
    """Of LLM.int8's own product this is not true: an outlier changes the other rows of its pass."""
    experts = attach(load_backbone(folders[kind], bits=bits, dtype="float32", device="cpu"))
    tiny.randomise(experts)
    with torch.no_grad():  # large values in a few columns of what the layers read
        embedding = experts.backbone.model.get_input_embeddings().weight
        embedding[3, :4] = 300.0
        if kind == "gpt2":
            experts.backbone.model.transformer.h[0].ln_1.weight[:4] = 50.0
    large = torch.tensor([[3, 3, 5, 7]])
    ordinary = torch.tensor([[1, 2, 5, 7]])
    with experts.active([0]) as model, torch.no_grad():
        together = model(input_ids=torch.cat([large, ordinary])).logits[1]
        alone = model(input_ids=ordinary).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


# The reference of the rest: what a user of PEFT has on a base loaded in 8 bits, one adapter each.


def stock(folder, adapter):
    """Return transformers' own 8-bit base with one adapter, in bitsandbytes' own product.

    In training mode bitsandbytes leaves activations as they are on a CPU; there is no dropout.
    """
    base = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=True).train()


@pytest.fixture
def eight(folders, attach):
    experts = attach(load_backbone(folders["llama"], bits=8, dtype="float32", device="cpu"))
    tiny.randomise(experts)
    return experts


def test_a_stacked_probe_is_peft_on_the_same_8_bit_base(eight, folders, tmp_path):
    found = probe(eight, ROWS, [0, 1, 2])
    for slot in range(3):
        eight.save(slot, tmp_path / str(slot))
        with torch.no_grad():
            expected = tiny.plain_log_lik(stock(folders["llama"], tmp_path / str(slot)), ROWS)
        torch.testing.assert_close(found[:, slot].float(), expected, rtol=1e-4, atol=1e-4)


def test_stacked_gradients_are_pefts_on_the_same_8_bit_base(eight, folders, tmp_path):
    for slot in (1, 0):
        eight.save(slot, tmp_path / str(slot))
    models = [stock(folders["llama"], tmp_path / str(slot)) for slot in (1, 0)]
    log_lik = torch.stack([tiny.plain_log_lik(model, ROWS) for model in models])
    alpha = torch.softmax(WEIGHTS.log()[:, None] + log_lik.detach(), dim=0)
    delta = sgd_step(eight, eight.state()).delta
    for j, model in enumerate(models):
        loss = -(alpha[j] * log_lik[j]).sum() / alpha[j].sum()
        expected = tiny.plain_gradient(model, loss)
        assert expected.keys() == delta.keys()
        for name, gradient in expected.items():
            assert tiny.relative_error(-delta[name][j], gradient) < 1e-4, name


def test_answers_are_those_of_peft_on_the_same_8_bit_base(eight, folders, tmp_path):
    prompts = [list(row.ids[: row.prompt]) for row in ROWS]
    eight.save(2, tmp_path / "2")
    model = stock(folders["llama"], tmp_path / "2")
    found = generate(eight, prompts, [2], torch.ones(1), 0.0, max_new_tokens=5)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        for token in answer:
            assert int(model(input_ids=ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_a_file_of_an_8_bit_bank_is_that_of_any_other(eight, backbones, attach, folders, tmp_path):
    eight.save(1, tmp_path / "quantised")
    whole = attach("llama")
    whole.load(eight.state())
    whole.save(1, tmp_path / "whole")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        one, other = ((tmp_path / name / file).read_bytes() for name in ("quantised", "whole"))
        assert one == other
    again = attach(load_backbone(folders["llama"], bits=8, device="cpu"))
    again.load_folder(0, tmp_path / "quantised")
    for name, tensor in again.state([0]).items():
        assert torch.equal(tensor, eight.state([1])[name])


def test_recomputing_changes_no_gradient(folders, attach):
    stored, recomputed = (
        attach(
            load_backbone(
                folders["llama"],
                bits=8,
                dtype="float32",
                gradient_checkpointing=checkpointed,
                device="cpu",
            )
        )
        for checkpointed in (False, True)
    )
    start = tiny.randomise(stored)
    expected = sgd_step(stored, start).delta
    for name, delta in sgd_step(recomputed, start).delta.items():
        assert tiny.relative_error(delta, expected[name]) < 1e-5, name


def test_a_layer_keeps_nothing_of_its_input_for_the_backward_pass(eight):
    """bitsandbytes' own product keeps it out of sight of what recomputes activations."""
    layer = eight.backbone.model.model.layers[0].mlp.down_proj.get_base_layer()
    x = torch.randn(3, 128, requires_grad=True)
    inner = x * 2
    watched = weakref.ref(inner)
    output = layer(inner)
    del inner
    gc.collect()
    assert watched() is None
    output.sum().backward()
    weight = layer.state.CB * layer.state.SCB[:, None] / 127
    torch.testing.assert_close(x.grad, 2 * weight.sum(dim=0).expand(3, -1))


def test_weights_are_quantised_once_and_stay_as_they_are(eight):
    layer = eight.backbone.model.model.layers[0].mlp.down_proj.get_base_layer()
    held, before = layer.weight.data_ptr(), layer.weight.clone()
    assert layer.weight.dtype == torch.int8
    sgd_step(eight, eight.state())
    probe(eight, ROWS, [0, 1])
    assert layer.weight.data_ptr() == layer.state.CB.data_ptr() == held
    assert torch.equal(layer.weight, before)


def test_a_base_that_was_saved_in_8_bits_needs_no_setting(eight, tmp_path, attach):
    state, expected = eight.state(), probe(eight, ROWS, [0])
    tokenizer = eight.backbone.tokenizer
    eight.close()
    eight.backbone.model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    found = load_backbone(str(tmp_path / "saved"), dtype="float32", device="cpu")
    assert found.bits == 8
    experts = attach(found)
    experts.load(state)
    torch.testing.assert_close(probe(experts, ROWS, [0]), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_said_of_every_product(eight, caplog):
    with caplog.at_level(logging.WARNING):
        probe(eight, ROWS, [0])
    assert "float16" not in caplog.text


@pytest.mark.parametrize("bits", [4, 8])
def test_a_silo_quantises_its_base_once_for_all_messages(folders, bits):
    settings = ModelSettings(
        model_name=folders["llama"], use_4bit=bits == 4, use_8bit=bits == 8, device="cpu"
    )
    experts = resident_experts(settings, 2)
    assert experts.backbone.bits == bits
    assert resident_experts(settings, 2) is experts


@pytest.mark.parametrize("bits", [4, 8])
def test_experts_in_the_upper_half_share_a_quantised_lower_half(folders, attach, bits):
    base = load_backbone(folders["llama"], bits=bits, dtype="float32", device="cpu")
    experts = attach(base, layers="upper")
    tiny.randomise(experts)
    together = probe(experts, ROWS, [0, 1, 2])
    for slot in range(3):
        alone = probe(experts, ROWS, [slot])
        torch.testing.assert_close(together[:, slot], alone[:, 0], rtol=1e-5, atol=1e-5)
