from __future__ import annotations

import math

import pytest
import torch

from fedvemoe_app.data.batches import collate
from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.training import fit
from tests.model import tiny

pytest.importorskip("bitsandbytes")
ROWS = tiny.examples(5)
BATCH = collate(ROWS, range(5), pad=tiny.EOS)
WEIGHTS = torch.tensor([0.5, 0.5])


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def quantised(request, folders):
    return load_backbone(folders[request.param], use_4bit=True, device="cpu")


def sgd_step(experts, start):
    experts.load(start)
    options = {"factor": "both", "steps": 1, "learning_rate": 1.0, "row_cap": 10_000}
    options |= {"optimizer": "sgd", "max_grad_norm": math.inf}
    return fit(experts, iter([BATCH]), [1, 0], WEIGHTS, **options)


def test_a_base_is_quantised_but_for_its_head(quantised):
    layers = {name: type(part).__name__ for name, part in quantised.model.named_modules()}
    assert layers["model.layers.0.self_attn.q_proj"] == "Linear4bit"
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


def test_stacked_training_equals_training_alone(folders, attach):
    backbone = load_backbone(folders["llama"], use_4bit=True, dtype="float32", device="cpu")
    experts = attach(backbone)
    start = tiny.randomise(experts)
    together = sgd_step(experts, start)
    log_lik, _ = token_log_lik(experts, [BATCH], [1, 0], row_cap=10_000)
    for j, slot in enumerate([1, 0]):
        alone, _ = token_log_lik(experts, [BATCH], [slot], row_cap=10_000)
        torch.testing.assert_close(log_lik[:, j], alone[:, 0], rtol=1e-5, atol=1e-5)
    assert all(delta[j].any() for delta in together.delta.values() for j in range(2))


def test_training_learns(quantised, attach):
    experts = attach(quantised)
    experts.load(experts.initial(0))
    options = {"factor": "B", "steps": 15, "learning_rate": 1e-2, "row_cap": 10_000}
    losses = [fit(experts, iter([BATCH] * 15), [0, 1], WEIGHTS, **options).loss for _ in range(2)]
    assert losses[1] < 0.8 * losses[0]


def test_a_width_that_is_no_multiple_of_the_block_is_refused(tmp_path):
    folder = tiny.build("llama", tmp_path / "narrow", hidden=96)
    with pytest.raises(BaseModelError, match=r"96 inputs, not a multiple of 64.*use-4bit"):
        load_backbone(folder, use_4bit=True, device="cpu")
