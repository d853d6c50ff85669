"""The server's view of a base: everything but the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedvemoe_app.errors import BaseModelError
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.experts import Experts
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
