from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from fedvemoe_app.errors import BaseModelError, SettingError
from fedvemoe_app.model import backbone as module
from fedvemoe_app.model import quantisation
from fedvemoe_app.model.backbone import load_backbone, resident
from fedvemoe_app.model.head import Head
from tests.model import tiny


@pytest.fixture
def base(folders, tmp_path) -> Path:
    """A copy of the Llama base that a test may change."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "base"))


def test_a_backbone_is_frozen_and_quiet(backbones):
    backbone = backbones["llama"]
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(part.training for part in backbone.model.modules())
    assert backbone.model.dtype == torch.float32
    assert backbone.tokenizer.pad_token_id == backbone.tokenizer.eos_token_id == tiny.EOS


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_padding_is_a_token_the_base_knows(kind, backbones):
    backbone = backbones[kind]
    known = backbone.model.get_input_embeddings().num_embeddings
    assert backbone.tokenizer.pad_token_id < known


def test_sampling_defaults_of_the_base_are_dropped_but_its_stop_tokens_kept(base):
    settings = {"do_sample": True, "repetition_penalty": 1.5, "eos_token_id": [tiny.EOS, 3]}
    (base / "generation_config.json").write_text(json.dumps(settings))
    found = load_backbone(str(base)).model.generation_config
    assert found.eos_token_id == [3, tiny.EOS]
    assert found.repetition_penalty is None
    assert not found.do_sample


def test_unknown_bases_are_refused(tmp_path):
    with pytest.raises(BaseModelError, match=r"config\.json is missing"):
        load_backbone(str(tmp_path))
    with pytest.raises(BaseModelError, match="no/where: no such folder; set model-name"):
        load_backbone(str(tmp_path / "no/where"))


def test_a_tokenizer_without_eos_is_refused(base):
    tiny.tokenizer(eos=None).save_pretrained(base)
    with pytest.raises(BaseModelError, match="no EOS token"):
        load_backbone(str(base))


def test_a_folder_without_weights_is_refused(base):
    (base / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="cannot be loaded as a causal model"):
        load_backbone(str(base))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_without_bitsandbytes_names_the_fix(folders, monkeypatch, bits):
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=rf"use-{bits}bit needs .*pip install -e '\.\[gpu\]'"):
        load_backbone(folders["llama"], bits=bits)


def test_the_fingerprint_is_the_files_and_not_the_loaders(base, folders, backbones):
    original = backbones["llama"].fingerprint
    assert load_backbone(str(base), dtype="bfloat16").fingerprint == original
    assert len({backbone.fingerprint for backbone in backbones.values()}) == len(backbones)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert load_backbone(str(base)).fingerprint == original
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    changed = load_backbone(str(base)).fingerprint
    assert changed != original
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert load_backbone(str(base)).fingerprint not in (changed, original)


def test_the_tokenizer_is_part_of_the_fingerprint(base, backbones):
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"w3"', '"w_3"'))
    assert load_backbone(str(base)).fingerprint != backbones["llama"].fingerprint


SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}
TOKENS = torch.tensor([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=2.0)),
        CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.3)),
    ],
    ids=["gemma2", "cohere"],
)
def test_heads_that_cap_or_scale_are_followed(model):
    model.eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=TOKENS).last_hidden_state
        torch.testing.assert_close(Head.of(model)(hidden), model(input_ids=TOKENS).logits)


def test_a_head_that_does_something_else_is_refused(base, monkeypatch):
    load = module._load_model

    def odd_model(*arguments):
        model = load(*arguments)
        inner = model.forward

        def twice(**inputs):
            output = inner(**inputs)
            output.logits = output.logits * 2
            return output

        model.forward = twice
        return model

    monkeypatch.setattr(module, "_load_model", odd_model)
    with pytest.raises(BaseModelError, match="LlamaForCausalLM changes its logits"):
        load_backbone(str(base))


def test_a_gpu_that_is_not_there_is_refused(folders):
    with pytest.raises(SettingError, match=r'device = "cuda:99".* use auto or cpu'):
        load_backbone(folders["llama"], device="cuda:99")


def test_one_base_is_resident_and_the_next_frees_it_first(folders, monkeypatch):
    first = resident(folders["llama"])
    assert resident(folders["llama"]) is first
    model = weakref.ref(first.model)
    load = module.load_backbone
    alive = []

    def watching(name, **options):
        alive.append(model() is not None)
        return load(name, **options)

    monkeypatch.setattr(module, "load_backbone", watching)
    del first
    gc.collect()
    assert model() is not None
    second = resident(folders["llama"], dtype="bfloat16")
    assert alive == [False]
    assert second.model.dtype == torch.bfloat16
    module._resident.clear()
