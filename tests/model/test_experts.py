from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from torch import nn

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.skeleton import skeleton
from fedvemoe_app.model.stacked_layers import StackedLinear, StackedLora
from tests.model import tiny

TOKENS = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])


def logits(experts, slots):
    """[m, B, T, V] of the same two rows under each slot."""
    with torch.no_grad(), experts.active(slots) as model:
        out = model(input_ids=TOKENS.repeat(len(slots), 1)).logits
    return out.view(len(slots), *TOKENS.shape, -1)


def test_peft_still_takes_custom_layers():
    assert callable(LoraConfig._register_custom_module)
    config = LoraConfig(target_modules=["0"])
    config._register_custom_module({nn.Linear: StackedLinear})
    assert config._custom_modules == {nn.Linear: StackedLinear}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_adapted_layer_is_stacked_and_the_head_is_not(kind, attach):
    experts = attach(kind)
    adapted = [part for part in experts.backbone.model.modules() if hasattr(part, "lora_A")]
    assert all(isinstance(layer, StackedLora) for layer in adapted)
    assert len(experts.names) == 2 * len(adapted) == 2 * (8 if kind == "gpt2" else 14)
    assert not hasattr(experts.backbone.model.get_output_embeddings(), "lora_A")


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_saved_slots_are_plain_peft_adapters(kind, attach, folders, tmp_path):
    experts = attach(kind)
    tensors = tiny.randomise(experts)
    stacked = logits(experts, [2, 0])
    for j, slot in enumerate([2, 0]):
        experts.save(slot, tmp_path / str(slot))
        with torch.no_grad():
            plain = tiny.plain_adapter(folders[kind], tmp_path / str(slot))(input_ids=TOKENS).logits
        assert tiny.relative_error(stacked[j], plain) < 1e-5
    config = json.loads((tmp_path / "2" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == folders[kind]
    assert config["target_modules"] == sorted(config["target_modules"])
    experts.load_folder(1, tmp_path / "2")
    for name, stack in experts.state([1]).items():
        assert torch.equal(stack[0], tensors[name][2])


def test_a_base_without_weights_is_enough_to_lay_out_and_save(attach, folders, tmp_path):
    real = attach()
    tensors = tiny.randomise(real)
    shapes, start = real.shapes, real.initial(4)
    real.save(1, tmp_path / "real")
    hollow = attach(skeleton(folders["llama"]))
    assert hollow.shapes == shapes
    assert all(torch.equal(stack, start[name]) for name, stack in hollow.initial(4).items())
    hollow.load(tensors)
    hollow.save(1, tmp_path / "hollow")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "hollow" / file).read_bytes() == (tmp_path / "real" / file).read_bytes()


def test_relabelling_slots_permutes(attach):
    experts = attach()
    tiny.randomise(experts)
    assert torch.equal(logits(experts, [2, 0, 1]), logits(experts, [0, 1, 2])[[2, 0, 1]])


def test_outside_active_the_base_speaks_alone(attach, backbones):
    with torch.no_grad():
        bare = backbones["llama"].model(input_ids=TOKENS).logits
    experts = attach()
    tiny.randomise(experts)
    changed = logits(experts, [0])
    with torch.no_grad():
        assert torch.equal(experts.backbone.model(input_ids=TOKENS).logits, bare)
    assert not torch.allclose(changed[0], bare)


def test_a_new_bank_is_silent_until_loaded(attach, backbones):
    with torch.no_grad():
        bare = backbones["llama"].model(input_ids=TOKENS).logits
    experts = attach()
    torch.testing.assert_close(logits(experts, [1])[0], bare)
    experts.load(experts.initial(5))
    torch.testing.assert_close(logits(experts, [1])[0], bare)


def test_initial_is_kaiming_shared_and_depends_on_the_seed_alone(attach):
    experts = attach()
    torch.manual_seed(1)
    first = experts.initial(5)
    torch.manual_seed(2)
    again, other = experts.initial(5), experts.initial(6)
    assert first.keys() == set(experts.names)
    for name, stack in first.items():
        assert stack.shape == experts.shapes[name]
        assert torch.equal(stack, again[name])
        assert all(torch.equal(slot, stack[0]) for slot in stack)
        if name.endswith(".B"):
            assert not stack.any()
        else:
            bound = stack.shape[-1] ** -0.5
            assert 0.9 * bound < stack.abs().max() <= bound
            assert not torch.equal(stack, other[name])
    streams = [stack[0] for name, stack in first.items() if name.endswith("q_proj.A")]
    assert not torch.equal(*streams)


def test_load_and_state_are_inverse_and_touch_only_their_slots(attach):
    experts = attach()
    tensors = tiny.randomise(experts)
    fresh = {name: torch.randn(2, *stack.shape[1:]) for name, stack in tensors.items()}
    experts.load(fresh, [2, 0])
    for name, stack in experts.state().items():
        assert stack.dtype == torch.float32
        expected = torch.stack([fresh[name][1], tensors[name][1], fresh[name][0]])
        assert torch.equal(stack, expected)


def test_attaching_draws_no_random_numbers(attach):
    before = torch.random.get_rng_state()
    attach()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_must_share_out_evenly(attach):
    experts = attach()
    with experts.active([0, 1]) as model, pytest.raises(ValueError, match="3 rows"):
        model(input_ids=torch.ones(3, 4, dtype=torch.long))


@pytest.mark.parametrize("slots", [[], [3], [-1]])
def test_unknown_slots_are_refused(attach, slots):
    with pytest.raises(ValueError, match="not among the 3 slots"), attach().active(slots):
        pass


def test_other_ranks_and_names_are_refused(attach, tmp_path):
    experts = attach()
    name = experts.names[0]
    with pytest.raises(RunError, match=r"shape \(3, 5, 64\).*rank, here 4"):
        experts.load({name: torch.zeros(3, 5, 64)})
    with pytest.raises(RunError, match="no tensor of these experts"):
        experts.load({"model.elsewhere.A": torch.zeros(3, 4, 64)})
    experts.save(0, tmp_path / "rank4")
    experts.close()
    other = attach(rank=2)
    with pytest.raises(RunError, match=r"rank 4 and alpha 8.* rank 2"):
        other.load_folder(0, tmp_path / "rank4")
    with pytest.raises(RunError, match=r"adapter_config\.json is missing"):
        other.load_folder(0, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "nonsense"], "nonsense does not exist.*q_proj"),
        (["lm_head"], "lm_head is no linear layer below the head"),
        (["embed_tokens"], "embed_tokens is no linear layer"),
        (r".*\.attention", "does not exist"),
    ],
)
def test_wrong_target_modules_say_their_name(attach, targets, message):
    with pytest.raises(SettingError, match=message):
        attach(target_modules=targets)
    attach()  # the base is untouched


def test_targets_may_be_names_or_a_pattern(attach):
    named = attach(target_modules=["q_proj", "v_proj"])
    names = named.names
    named.close()
    assert names == attach(target_modules=r".*\.(q|v)_proj").names
    assert len(names) == 8


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_closing_gives_the_base_back_for_other_experts(kind, backbones):
    backbone = backbones[kind]
    before = {name: type(part) for name, part in backbone.model.named_modules()}
    with torch.no_grad():
        bare = backbone.model(input_ids=TOKENS).logits
    first = Experts(backbone, slots=2, rank=4, alpha=4)
    tiny.randomise(first)
    with pytest.raises(RunError, match="already carries experts"):
        Experts(backbone, slots=2, rank=4, alpha=4)
    first.close()
    assert {name: type(part) for name, part in backbone.model.named_modules()} == before
    with torch.no_grad():
        assert torch.equal(backbone.model(input_ids=TOKENS).logits, bare)
    second = Experts(backbone, slots=1, rank=2, alpha=4)
    assert second.shapes[second.names[0]][:2] == (1, 2)
    second.close()


def test_factors_stacked_once_give_the_same_and_are_forgotten(attach):
    experts = attach()
    tiny.randomise(experts)
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        with experts.active([2, 0]) as model:
            expected = model(input_ids=rows).logits
        with experts.active([2, 0], unchanging=True) as model:
            first, again = model(input_ids=rows).logits, model(input_ids=rows).logits
        assert torch.equal(first, expected)
        assert torch.equal(again, expected)
        assert experts._selection.kept is None  # nor do they hold memory any longer
        changed = tiny.randomise(experts, seed=9)
        assert changed
        for unchanging in (False, True):
            with experts.active([2, 0], unchanging=unchanging) as model:
                assert not torch.allclose(model(input_ids=rows).logits, expected, atol=1e-3)
