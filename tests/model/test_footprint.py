"""The model of memory against what the backward pass really keeps, counted tensor by tensor."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from fedvemoe_app.data.batches import collate, lay_out
from fedvemoe_app.model.footprint import Shape, Work, _kept, footprint
from tests.model import tiny

ROWS = tiny.examples(8)
BATCH = collate(ROWS, range(8), pad=tiny.EOS)
SEVEN = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def kept(experts, slots, batch=BATCH) -> int:
    """Return the bytes of all tensors that the forward pass keeps beside the parameters."""
    experts.train_factor("both", slots)
    model = experts.backbone.model
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    own |= {b.untyped_storage().data_ptr() for b in model.buffers()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        experts.backbone.checkpointing(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        experts.hidden(slots, batch),
    ):
        experts.freeze()
        return sum(found.values())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_is_kept_of_a_row_is_counted(kind, attach):
    experts = attach(kind)
    tiny.randomise(experts)
    work = Work(rows=2 * BATCH.input_ids.numel(), rank=4, resident=3, trained=2)
    computed = work.rows * _kept(Shape.of(experts.backbone.model), work)
    assert kept(experts, [0, 1]) == pytest.approx(computed, rel=0.25)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_packed_rows_keep_besides_is_counted(kind, attach):
    """Goes red without the masks, which are a quarter of what comes on top, or the keys."""
    experts = attach(kind)
    tiny.randomise(experts)
    long = [dataclasses.replace(row, ids=(*row.ids, *[1] * (30 - len(row.ids)))) for row in ROWS]
    padded = collate(long, range(8), pad=tiny.EOS)
    packed = lay_out(long, [[0, 1], [2, 3], [4, 5], [6, 7]], pad=tiny.EOS)
    work = Work(rows=2 * padded.input_ids.numel(), rank=4, resident=3, trained=2)
    shape = Shape.of(experts.backbone.model)
    more = kept(experts, [0, 1], packed) - kept(experts, [0, 1], padded)
    computed = _kept(shape, dataclasses.replace(work, packed=60)) - _kept(shape, work)
    assert more == pytest.approx(work.rows * computed, rel=0.05)


def test_checkpointing_keeps_the_inputs_of_layers_alone(attach, backbones):
    experts = attach(dataclasses.replace(backbones["llama"], checkpointed=True))
    tiny.randomise(experts)
    shape = Shape.of(experts.backbone.model)
    inputs = 2 * BATCH.input_ids.numel() * shape.layers * shape.hidden * 4
    assert kept(experts, [0, 1]) < 2.5 * inputs  # the last norm's input and output come on top


def test_the_shape_of_a_loaded_base_is_that_of_its_skeleton(attach, backbones):
    experts = attach("llama")
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(experts.backbone.model.config)
    assert Shape.of(experts.backbone.model) == Shape.of(bare)
    shape = Shape.of(bare)
    assert shape.linear + shape.other == sum(parameter.numel() for parameter in bare.parameters())
    assert 4 * sum(rows.numel() for rows in experts.state([0]).values()) == (
        footprint(shape, Work(rows=0, rank=4, resident=1)).experts
    )


def test_seven_billion_weights_train_in_24_gigabytes_only_with_4_bits_and_checkpointing():
    with torch.device("meta"):
        shape = Shape.of(AutoModelForCausalLM.from_config(Qwen2Config(**SEVEN)))
    work = Work(rows=3 * 2 * 2048, rank=8, resident=13, trained=2, value=2.0, on_gpu=True)
    small = dataclasses.replace(work, bits=4, checkpointed=True)
    assert footprint(shape, small).total < 0.8 * 24e9
    eight, whole = (dataclasses.replace(small, bits=bits) for bits in (8, 0))
    assert footprint(shape, eight).total < 0.85 * 24e9 < 24e9 < footprint(shape, whole).total
    for more in (
        dataclasses.replace(small, bits=0),
        dataclasses.replace(small, checkpointed=False),
        dataclasses.replace(small, rows=4 * small.rows),
    ):
        assert footprint(shape, more).total > footprint(shape, small).total
    assert footprint(shape, dataclasses.replace(small, checkpointed=False)).total > 24e9
