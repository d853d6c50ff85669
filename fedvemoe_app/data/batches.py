"""Token sequences, right-padded batches of rows with one or several, streams of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app.data.packing import Arrange, Rows, apart, passes
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

    ``rows`` are the positions of the batch's examples in the list they came from, in the order
    they lie in, row by row. ``lengths`` are their tokens, by row.
    """

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64
    rows: tuple[int, ...]
    lengths: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> list[int]:
        """Tokens of each row, without padding."""
        return [sum(row) for row in self.lengths]

    @property
    def packed(self) -> bool:
        """Whether a row holds several examples."""
        return any(len(row) > 1 for row in self.lengths)

    @property
    def positions(self) -> Tensor:
        """Position [B, T] of each token in its example; padding is at 0, each token for itself."""
        made = torch.zeros_like(self.input_ids)
        for row, lengths in zip(made, self.lengths, strict=True):
            row[: sum(lengths)] = torch.cat([torch.arange(length) for length in lengths])
        return made

    @property
    def owners(self) -> Tensor:
        """Number [B, T] of the example that a token belongs to, in the order of ``rows``."""
        made, first = torch.zeros_like(self.input_ids), 0
        for row, lengths in zip(made, self.lengths, strict=True):
            numbers = torch.arange(first, first + len(lengths))
            row[: sum(lengths)] = numbers.repeat_interleave(torch.tensor(lengths))
            first += len(lengths)
        return made

    def part(self, rows: slice) -> Batch:
        """Return some rows, as wide as the widest of them."""
        lengths, width = self.lengths[rows], max(self.widths[rows])
        first = sum(map(len, self.lengths[: rows.start]))
        last = first + sum(map(len, lengths))
        return Batch(
            self.input_ids[rows, :width], self.labels[rows, :width], self.rows[first:last], lengths
        )


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
    """Right-pad the examples at ``rows`` into one batch, a row for each."""
    return lay_out(examples, [[row] for row in rows], pad)


def lay_out(examples: Sequence[Example], rows: Rows, pad: int) -> Batch:
    """Put the examples at ``rows[b]`` one after another into row b, and pad to the right.

    The first token of an example is never a target: nothing before it is its own.
    """
    lengths = tuple(tuple(len(examples[number].ids) for number in row) for row in rows)
    shape = (len(rows), max(map(sum, lengths)))
    input_ids = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for b, row in enumerate(rows):
        start = 0
        for number in row:
            example = examples[number]
            end, first = start + len(example.ids), max(1, example.prompt)
            input_ids[b, start:end] = torch.tensor(example.ids, dtype=torch.long)
            labels[b, start + first : end] = input_ids[b, start + first : end]
            start = end
    return Batch(input_ids, labels, tuple(n for row in rows for n in row), lengths)


def by_length(
    examples: Sequence[Example], most: int, pad: int, arrange: Arrange = apart
) -> list[Batch]:
    """Return every example once, in batches of neighbours in length (for evaluation).

    A batch has at most ``most`` padded tokens; an example that is longer goes alone.
    """
    order = sorted(range(len(examples)), key=lambda row: (len(examples[row].ids), row))
    widths = [len(examples[number].ids) for number in order]
    return [_arranged(examples, order[part], pad, arrange) for part in passes(widths, most)]


def shuffled(
    examples: Sequence[Example],
    batch_size: int,
    pad: int,
    rng: np.random.Generator,
    arrange: Arrange = apart,
) -> Iterator[Batch]:
    """Yield training batches without end: each pass is a fresh permutation of the examples."""
    size = min(batch_size, len(examples))
    while True:
        order = rng.permutation(len(examples)).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield _arranged(examples, order[start : start + size], pad, arrange)


def _arranged(
    examples: Sequence[Example], chosen: Sequence[int], pad: int, arrange: Arrange
) -> Batch:
    rows = arrange([len(examples[number].ids) for number in chosen])
    return lay_out(examples, [[chosen[place] for place in row] for row in rows], pad)
