"""One silo's tasks as token sequences: what it trains on, probes with, and is tested by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedvemoe_app.data.batches import Example, encode
from fedvemoe_app.data.task import Split, Task


@dataclass(frozen=True, slots=True)
class EncodedTasks:
    """Examples of all tasks of a silo, by split, task after task.

    ``probe`` is never trained on. ``top_up`` are training examples that the E-step sees as well
    because the probe alone has too few target tokens. ``answered`` is the part of ``test`` for
    which answers are generated.
    """

    train: tuple[Example, ...]
    probe: tuple[Example, ...]
    top_up: tuple[Example, ...]
    test: tuple[Example, ...]
    answered: tuple[Example, ...]


def encode_tasks(
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    seq_len: int,
    probe_tokens: int,
    eval_examples: int,
    generate_examples: int,
) -> EncodedTasks:
    """Tokenize a silo's tasks.

    ``probe_tokens`` is how many target tokens the E-step wants; ``eval_examples`` caps the test
    examples of each task (0: no cap), ``generate_examples`` those that are answered (0: none).
    """

    def examples(split: Split, cap: int | None = None) -> tuple[Example, ...]:
        return tuple(
            encode(tokenizer, task, instance, seq_len)
            for task in tasks
            for instance in task.splits[split][:cap]
        )

    train, probe = examples("train"), examples("probe")
    return EncodedTasks(
        train=train,
        probe=probe,
        top_up=_top_up(train, probe_tokens - sum(example.targets for example in probe)),
        test=examples("test", eval_examples or None),
        answered=examples("test", min(generate_examples, eval_examples or generate_examples)),
    )


def _top_up(train: Sequence[Example], tokens: int) -> tuple[Example, ...]:
    """Return training examples, evenly over the tasks, with ``tokens`` targets if there are."""
    if tokens <= 0:
        return ()
    mean = sum(example.targets for example in train) / len(train)
    wanted = min(len(train), int(tokens / mean) + 1)
    return tuple(train[row * len(train) // wanted] for row in range(wanted))
