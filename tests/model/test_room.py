"""Where memory runs out, the work is done again in smaller passes, with the same numbers."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from fedvemoe_app.data.batches import by_length, collate
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.room import Room
from fedvemoe_app.model.training import b_gradient, fit
from tests.model import tiny

ROWS = tiny.examples(6)
WEIGHTS = torch.tensor([0.7, 0.3])
LONGEST = max(len(row.ids) for row in ROWS)


@pytest.fixture
def experts(attach, backbones):
    """Experts on a base whose room is its own: what a test teaches it ends with the test."""
    return attach(dataclasses.replace(backbones["llama"], room=Room()))


@contextmanager
def memory_for(experts, rows, *, in_backward=False) -> Iterator[list[int]]:
    """Let a pass of more than ``rows`` token rows run out of memory, as late as it can."""
    passes: list[int] = []
    layer = experts.backbone.model.model.layers[-1 if not in_backward else 0]

    def forward(_module, arguments, *_):
        passes.append(arguments[0].shape[0] * arguments[0].shape[1])
        if passes[-1] > rows and not in_backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def backward(_module, gradients, *_):
        if gradients[0].shape[0] * gradients[0].shape[1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handles = [layer.register_forward_pre_hook(forward)]
    if in_backward:
        handles.append(layer.register_full_backward_pre_hook(backward))
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def probed(experts):
    batches = by_length(ROWS, 36, pad=tiny.EOS)
    return token_log_lik(experts, batches, [0, 1, 2], row_cap=10_000)[0]


def trained(experts, start, posterior="token", steps=3):
    experts.load(start)
    batches = [collate(ROWS, rows, pad=tiny.EOS) for rows in ([0, 1, 2], [3, 4, 5], [5, 1, 3])]
    return fit(
        experts,
        iter(batches),
        [2, 0],
        WEIGHTS,
        factor="both",
        steps=steps,
        learning_rate=0.05,
        row_cap=10_000,
        max_grad_norm=math.inf,
        optimizer="sgd",
        posterior=posterior,
    )


def test_a_probe_is_the_same_in_passes_that_fit(experts):
    tiny.randomise(experts)
    expected = probed(experts)
    with memory_for(experts, 2 * LONGEST) as passes:
        found = probed(experts)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        tried = len(passes)
        again = probed(experts)
    torch.testing.assert_close(again, found)
    assert max(passes[tried:]) <= 2 * LONGEST  # what did not fit is not tried again


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("posterior", ["token", "sequence"])
@pytest.mark.parametrize("rows", [4 * LONGEST, 2 * LONGEST, LONGEST])
def test_training_is_the_same_in_passes_that_fit(experts, rows, posterior, in_backward):
    """No step is made twice, no gradient counts twice, and experts part where they must."""
    start = tiny.randomise(experts)
    expected = trained(experts, start, posterior)
    with memory_for(experts, rows, in_backward=in_backward):
        found = trained(experts, start, posterior)
    tiny.assert_same_fit(found, expected, loss=1e-6)
    assert experts.backbone.room.most is not None


@pytest.mark.parametrize("posterior", ["token", "sequence"])
def test_experts_trained_one_after_another_are_those_trained_together(experts, posterior):
    start = tiny.randomise(experts)
    expected = trained(experts, start, posterior)
    experts.backbone.room.most = 1
    with memory_for(experts, LONGEST) as passes:
        tiny.assert_same_fit(trained(experts, start, posterior), expected, loss=1e-6)
    assert max(passes) <= LONGEST


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_the_start_gradient_is_the_same_in_passes_that_fit(experts):
    tiny.randomise(experts)
    batches = by_length(ROWS, 36, pad=tiny.EOS)
    expected = b_gradient(experts, batches)
    with memory_for(experts, LONGEST, in_backward=True):
        found = b_gradient(experts, batches)
    for name, gradient in expected.items():
        assert tiny.relative_error(found[name], gradient) < 1e-5


def test_answers_are_the_same_in_batches_that_fit_and_each_token_is_told_once(experts):
    tiny.randomise(experts)
    prompts = [row.ids[: row.prompt] for row in ROWS]
    options = {"max_new_tokens": 4}
    told, expected_told = [], []
    expected = generate(
        experts, prompts, [0, 1], WEIGHTS, 0.1, on_token=expected_told.append, **options
    )
    with memory_for(experts, 4 * max(map(len, prompts))):
        found = generate(experts, prompts, [0, 1], WEIGHTS, 0.1, on_token=told.append, **options)
    assert found == expected
    one, other = ([(t.row, t.token) for t in tokens] for tokens in (told, expected_told))
    assert sorted(one) == sorted(other)
    assert len(one) == sum(map(len, expected))


def test_it_is_said_once(experts, caplog):
    start = tiny.randomise(experts)
    with caplog.at_level(logging.WARNING, logger="flwr"), memory_for(experts, 2 * LONGEST):
        trained(experts, start)
        trained(experts, start)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "memory ran out" in said[0]
    assert "row-cap=" in said[0]


@pytest.mark.parametrize("work", ["probe", "training"])
def test_what_cannot_fit_says_what_would(experts, work):
    start = tiny.randomise(experts)
    with memory_for(experts, 1), pytest.raises(RunError) as caught:
        probed(experts) if work == "probe" else trained(experts, start)
    said = str(caught.value)
    assert "CUDA out of memory" in said
    for setting in (
        "use-8bit=true 0.000",
        "use-4bit=true 0.000",
        "k-max=1 0.00",
        "all of them 0.000",
    ):
        assert setting in said
    assert ("gradient-checkpointing=true" in said) == (work == "training")
    assert not any(parameter.requires_grad for parameter in experts.backbone.model.parameters())
