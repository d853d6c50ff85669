"""What only a GPU can show: stacked experts in bfloat16, 4 and 8 bits, and memory that runs out.

``python -m benchmarks.gpu_check`` runs these. With ``GPU_TESTS_DEVICE=cpu`` in the environment
they run on the CPU, which tries them out; what needs CUDA itself is skipped then.
"""

from __future__ import annotations

import gc
import math
import os
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

from fedvemoe_app.data.batches import by_length, collate
from fedvemoe_app.em.family import Fit
from fedvemoe_app.model.backbone import Backbone, load_backbone
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.quantisation import Bits
from fedvemoe_app.model.room import Room, free_memory
from fedvemoe_app.model.training import fit
from tests.model import tiny

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device here"
    ),
]
cuda_alone = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA's own memory")
ROWS = tiny.examples(6)
BATCH = collate(ROWS, range(6), pad=tiny.EOS)
WEIGHTS = torch.tensor([0.6, 0.4])
BITS = pytest.mark.parametrize("bits", [0, 4, 8], ids=["bfloat16", "NF4", "int8"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.build("llama", tmp_path_factory.mktemp("gpu") / "llama")


@pytest.fixture
def experts_on(base: str) -> Iterator[Callable[..., Experts]]:
    made: list[Experts] = []

    def build(*, bits: Bits, dtype: str = "bfloat16", checkpointed: bool = False) -> Experts:
        backbone: Backbone = load_backbone(
            base,
            dtype=dtype,  # type: ignore[arg-type]
            bits=bits,
            gradient_checkpointing=checkpointed,
            device=DEVICE,
        )
        made.append(Experts(backbone, slots=3, rank=4, alpha=8.0))
        tiny.randomise(made[-1])
        return made[-1]

    yield build
    for experts in made:
        experts.close()


def trained(experts: Experts, slots: list[int], weights: torch.Tensor, row_cap: int) -> Fit:
    return fit(
        experts,
        iter([BATCH]),
        slots,
        weights,
        factor="both",
        steps=1,
        learning_rate=1.0,
        row_cap=row_cap,
        max_grad_norm=math.inf,
        optimizer="sgd",
    )


@BITS
def test_a_probe_of_all_is_that_of_each(experts_on: Callable[..., Experts], bits: Bits) -> None:
    experts = experts_on(bits=bits)
    batches = by_length(ROWS, 36, pad=tiny.EOS)
    together, _ = token_log_lik(experts, batches, [0, 1, 2], row_cap=10_000)
    for slot in range(3):
        alone, _ = token_log_lik(experts, batches, [slot], row_cap=10_000)
        assert (together[:, slot] - alone[:, 0]).abs().max() < 0.15
        assert (together[:, slot] - alone[:, 0]).abs().mean() < 0.03


@BITS
@pytest.mark.parametrize("checkpointed", [False, True], ids=["stored", "recomputed"])
def test_a_step_of_all_is_that_of_each(
    experts_on: Callable[..., Experts], bits: Bits, checkpointed: bool
) -> None:
    """The two-pass loop is the reference: in groups of one, each expert has its own backward."""
    experts = experts_on(bits=bits, checkpointed=checkpointed)
    start = experts.state()
    together = trained(experts, [2, 0], WEIGHTS, 10_000)
    experts.load(start)
    experts.backbone.room.most = 1
    apart = trained(experts, [2, 0], WEIGHTS, 10_000)
    assert together.loss == pytest.approx(apart.loss, rel=2e-2)
    for name, delta in apart.delta.items():
        for one, other in zip(together.delta[name], delta, strict=True):
            assert float((one - other).norm() / other.norm()) < 0.1, name


@BITS
def test_a_mixture_answers(experts_on: Callable[..., Experts], bits: Bits) -> None:
    experts = experts_on(bits=bits)
    answers = generate(experts, [[1, 2, 3], [4]], [0, 1], WEIGHTS, 0.1, max_new_tokens=4)
    assert len(answers) == 2
    assert all(len(answer) <= 4 for answer in answers)


def test_a_row_in_8_bits_does_not_depend_on_the_rows_beside_it(
    experts_on: Callable[..., Experts],
) -> None:
    experts = experts_on(bits=8, dtype="float32")
    rows = torch.tensor([[3, 3, 5, 7], [1, 2, 5, 7]], device=DEVICE)
    with experts.active([0]) as model, torch.no_grad():
        model.get_input_embeddings().weight[3, :4] = 300.0
        together, alone = model(input_ids=rows).logits[1], model(input_ids=rows[1:]).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_checkpointed_step_in_8_bits_keeps_no_inputs(experts_on: Callable[..., Experts]) -> None:
    experts = experts_on(bits=8, dtype="float32")
    layer = experts.backbone.model.model.layers[0].mlp.down_proj.get_base_layer()
    inner = torch.randn(3, layer.in_features, device=DEVICE, requires_grad=True) * 2
    watched = weakref.ref(inner)
    output = layer(inner)
    assert output.requires_grad
    del inner
    gc.collect()
    assert watched() is None


@cuda_alone
def test_real_exhaustion_is_survived(experts_on: Callable[..., Experts]) -> None:
    experts = experts_on(bits=0, dtype="float32")
    start = experts.state()
    expected = trained(experts, [2, 0], WEIGHTS, 10_000)
    experts.load(start)
    free_memory()
    held = torch.cuda.memory_reserved() + 2**22
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held / total)
    hog = []
    try:
        while True:
            hog.append(torch.empty(2**18, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        del hog[: len(hog) // 2]
    try:
        found = trained(experts, [2, 0], WEIGHTS, 10_000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)


@cuda_alone
def test_a_base_leaves_no_memory_behind(base: str) -> None:
    free_memory()
    before = torch.cuda.memory_allocated()
    experts = Experts(load_backbone(base, device="cuda"), slots=3, rank=4, alpha=8.0)
    assert torch.cuda.memory_allocated() > before
    experts.close()
    del experts
    free_memory()
    assert torch.cuda.memory_allocated() <= before


def test_room_is_learned_per_base(base: str) -> None:
    one = load_backbone(base, device=DEVICE)
    assert one.room == Room()
    assert one.room is not load_backbone(base, device=DEVICE).room
