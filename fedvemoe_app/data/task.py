"""What a task is: a definition, categories, and instances with one or more references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Split = Literal["train", "probe", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Instance:
    """One question with every answer that counts as right (the first is trained on)."""

    id: str
    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the bank, its instances divided into four disjoint splits.

    ``domain`` is the planted ground truth of the embedded bank ("" where nobody knows);
    no part of the algorithm reads it, only reports and tests do.
    """

    name: str
    definition: str
    categories: tuple[str, ...]
    splits: Mapping[Split, tuple[Instance, ...]]
    domain: str = field(default="")

    def __len__(self) -> int:
        """Return the number of instances over all splits."""
        return sum(len(part) for part in self.splits.values())
