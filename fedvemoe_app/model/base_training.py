"""The training of a small causal LM from nothing: AdamW, warm-up and cosine, fixed steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from fedvemoe_app.data.batches import IGNORED, Example, collate
from fedvemoe_app.seeds import number, stream

Progress = Callable[[int, int, float], None]

VERSION = 1
"""Raise it when the same recipe no longer gives the same model."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a build, besides the tasks and the seed.

    Widths are multiples of 64, as 4-bit quantisation wants them. ``vocab_size`` is the most the
    tokenizer may have; ``batch_tokens`` is about the tokens of a padded batch. One of
    ``threads`` keeps the result apart from the number of cores, and other programs from slowing
    tiny operations down many times; None leaves the number as it is.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab_size: int
    seq_len: int
    steps: int
    batch_tokens: int
    learning_rate: float
    threads: int | None
    warmup: float = 0.05
    weight_decay: float = 0.01
    version: int = VERSION


def train(
    tokenizer: Any,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    on_progress: Progress | None,
) -> Any:
    """Return a model trained on every token of prompt and answer, a function of the arguments."""
    with _threads(recipe.threads):
        return _fit(_model(tokenizer, recipe, seed), tokenizer, examples, recipe, seed, on_progress)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    on_progress: Progress | None,
) -> Any:
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    batches = _batches(examples, recipe, tokenizer.pad_token_id, stream(seed, "base", "batches"))
    for step in range(1, recipe.steps + 1):
        loss = _loss(model, next(batches), tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_progress:
            on_progress(step, recipe.steps, loss.item())
    return model.eval()


def _model(tokenizer: Any, recipe: Recipe, seed: int) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=2 * recipe.seq_len,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=recipe.hidden**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number(seed, "base", "weights"))
        return LlamaForCausalLM(config)


def _rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine down to zero."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def _batches(
    examples: Sequence[Example], recipe: Recipe, pad: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Yield padded rows [B, T] of similar length without end, about ``batch_tokens`` each."""
    while True:
        shuffled = rng.permutation(len(examples)).tolist()
        order = sorted(shuffled, key=lambda row: round(2 * math.log2(len(examples[row].ids))))
        groups: list[list[int]] = [[]]
        for row in order:
            if len(examples[row].ids) * (len(groups[-1]) + 1) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        for index in rng.permutation(len(groups)):
            yield collate(examples, groups[index], pad).input_ids


def _loss(model: Any, ids: Tensor, pad: int) -> Tensor:
    """Return the mean loss of all next tokens, nats per token; padding does not count."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == pad, IGNORED)
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
