"""Scores as sums, so that silos can be added up (even under masks) and divided once, at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over examples; ``Score()`` is zero.

    Teacher-forced sequences count in ``nll``, ``tokens`` and ``sequences``; examples for which
    text was generated count in ``rouge_l``, ``exact_match`` and ``examples``.
    """

    nll: float = 0.0  # nats, summed over target tokens
    tokens: float = 0.0  # target tokens, EOS included
    rouge_l: float = 0.0  # sum of values in [0, 1]
    exact_match: float = 0.0  # number of matches
    examples: float = 0.0  # examples with generated text
    sequences: float = 0.0  # teacher-forced sequences

    def __add__(self, other: Score) -> Score:
        """Return the sums over both sets of examples."""
        return Score.from_array(self.to_array() + other.to_array())

    @property
    def ppl(self) -> float | None:
        """Return exp(nats per target token); None where no token was scored."""
        if not self.tokens:
            return None
        try:
            return math.exp(self.nll / self.tokens)
        except OverflowError:
            return math.inf

    @property
    def rouge_l_percent(self) -> float | None:
        """Return mean ROUGE-L x 100; None where no text was generated."""
        return 100.0 * self.rouge_l / self.examples if self.examples else None

    @property
    def exact_match_percent(self) -> float | None:
        """Return the share of exact matches x 100; None where no text was generated."""
        return 100.0 * self.exact_match / self.examples if self.examples else None

    def to_array(self) -> NDArray[np.float64]:
        """Return the sums in field order, [6]; adding arrays adds scores."""
        return np.array(astuple(self), dtype=np.float64)

    @classmethod
    def from_array(cls, values: NDArray[Any]) -> Score:
        """Read back what ``to_array`` wrote.

        Raises
        ------
        ValueError
            Where ``values`` does not have one number per field.
        """
        if values.shape != (len(fields(cls)),):
            raise ValueError(f"a score has {len(fields(cls))} sums, not shape {values.shape}")
        return cls(*map(float, values))


def pool(scores: Iterable[Score]) -> Score:
    """Return the score of all examples together (zero where there is none)."""
    return sum(scores, start=Score())
