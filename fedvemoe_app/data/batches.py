"""Token sequences, right-padded batches of similar length, and streams of training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app.data.prompts import answer, prompt
from fedvemoe_app.data.task import Instance, Task

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One instance as tokens: ``ids[:prompt]`` is the prompt, the rest answer and EOS."""

    ids: tuple[int, ...]
    prompt: int
    task: str
    instance: Instance

    @property
    def targets(self) -> int:
        """Number of target tokens, EOS included."""
        return len(self.ids) - self.prompt


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows. ``labels[b, t]`` is the token at t where it is a target, else -100.

    ``rows`` are the positions of the batch's examples in the list they came from.
    """

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64
    rows: tuple[int, ...]


def encode(tokenizer: Any, task: Task, instance: Instance, seq_len: int) -> Example:
    """Tokenize one instance; a prompt that does not fit loses its beginning, never its answer.

    The answer itself is cut to half of ``seq_len`` where it is longer than that.
    """
    target = tokenizer.encode(answer(tokenizer, instance.outputs[0]), add_special_tokens=False)
    target = [*target[: max(1, seq_len // 2)], tokenizer.eos_token_id]
    source = encode_prompt(tokenizer, task, instance)[-max(1, seq_len - len(target)) :]
    return Example((*source, *target), len(source), task.name, instance)


def encode_prompt(tokenizer: Any, task: Task, instance: Instance) -> list[int]:
    """Return the tokens of a prompt, whole."""
    tokens: list[int] = tokenizer.encode(
        prompt(tokenizer, task, instance), add_special_tokens=False
    )
    return tokens


def collate(examples: Sequence[Example], rows: Sequence[int], pad: int) -> Batch:
    """Right-pad the examples at ``rows`` into one batch."""
    width = max(len(examples[row].ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for b, row in enumerate(rows):
        example = examples[row]
        ids = torch.tensor(example.ids, dtype=torch.long)
        input_ids[b, : len(ids)] = ids
        labels[b, example.prompt : len(ids)] = ids[example.prompt :]
    return Batch(input_ids, labels, tuple(rows))


def by_length(examples: Sequence[Example], batch_size: int, pad: int) -> list[Batch]:
    """Return every example once, in batches of neighbours in length (for evaluation)."""
    order = sorted(range(len(examples)), key=lambda row: (len(examples[row].ids), row))
    return [
        collate(examples, order[start : start + batch_size], pad)
        for start in range(0, len(order), batch_size)
    ]


def shuffled(
    examples: Sequence[Example], batch_size: int, pad: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """Yield training batches without end: each pass is a fresh permutation of the examples."""
    size = min(batch_size, len(examples))
    while True:
        order = rng.permutation(len(examples)).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield collate(examples, order[start : start + size], pad)
