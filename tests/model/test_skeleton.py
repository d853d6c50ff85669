"""The server's view of a base: everything but the weights."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.fingerprint import fingerprint, hub_weights
from fedvemoe_app.model.skeleton import skeleton
from tests.model import tiny


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_it_has_the_layers_of_the_base_and_no_memory(
    kind: str, folders: dict[str, str], backbones: dict[str, Backbone]
) -> None:
    hollow = skeleton(folders[kind]).model
    loaded = AutoModelForCausalLM.from_pretrained(folders[kind])
    shapes, real = (
        {name: tuple(p.shape) for name, p in model.named_parameters()} for model in (hollow, loaded)
    )
    assert shapes == real
    assert all(p.is_meta and not p.requires_grad for p in hollow.parameters())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_it_is_known_by_the_same_fingerprint(
    kind: str, folders: dict[str, str], backbones: dict[str, Backbone]
) -> None:
    assert skeleton(folders[kind]).fingerprint == backbones[kind].fingerprint


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_experts_laid_out_on_it_load_in_plain_peft(
    kind: str, folders: dict[str, str], attach: Callable[..., Experts], tmp_path: Path
) -> None:
    hollow = attach(skeleton(folders[kind]))
    tensors = tiny.randomise(hollow)
    hollow.save(1, tmp_path / "expert")
    plain = tiny.plain_adapter(folders[kind], tmp_path / "expert")
    held = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in plain.named_parameters()
        if ".lora_" in name
    }
    assert set(held) == {name.replace(".A", ".lora_A").replace(".B", ".lora_B") for name in tensors}
    for name, stack in tensors.items():
        factor = held[f"{name[:-2]}.lora_{name[-1]}"]
        assert torch.equal(factor, stack[1])


def test_what_is_no_base_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="nowhere"):
        skeleton("/nowhere/base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"empty.*config\.json"):
        skeleton(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(BaseModelError, match="empty is no causal language model"):
        skeleton(str(tmp_path / "empty"))


def test_a_server_without_the_weights_knows_the_base_by_the_hubs_list(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "0123abcd"
    shutil.copytree(small_base, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    listed = [
        SimpleNamespace(
            rfilename=file.name,
            lfs=SimpleNamespace(sha256=hashlib.sha256(file.read_bytes()).hexdigest()),
        )
        for file in small_base.glob("*.safetensors")
    ]
    others = [
        SimpleNamespace(rfilename="config.json", lfs=None),
        SimpleNamespace(rfilename="onnx/model.safetensors", lfs=SimpleNamespace(sha256="0")),
    ]
    info = SimpleNamespace(siblings=[*others, *listed])
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: info)
    weights = hub_weights("some/base", bare.name)
    assert fingerprint(bare, weights) == fingerprint(small_base)
    assert fingerprint(bare) != fingerprint(small_base)
