"""What one way of predicting gains over another, held out, and how sure that is.

Used where a decision hangs on a difference: whether the bank serves a silo, and how much a few
local steps would add (the regret that opens new experts). What is compared is cross-fitted
(``em.scores.scored``); the standard error is over examples, for tokens of one answer are no
independent witnesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference in nats per token and its standard error (infinite for fewer than 2 examples).

    Positive is better.
    """

    nats: float
    error: float

    def exceeds(self, threshold: float) -> bool:
        """Say whether the gain is above ``threshold`` and above one standard error."""
        return self.nats > threshold and self.nats > self.error


def gain(better: Tensor, worse: Tensor, owners: Tensor) -> Gain:
    """Return the mean of ``better - worse`` [T] over tokens, with its error over examples."""
    difference = better - worse
    if not len(difference):
        return Gain(0.0, math.inf)
    return Gain(float(difference.mean()), standard_error(difference, owners))


def standard_error(difference: Tensor, owners: Tensor) -> float:
    """Return the standard error of the mean of ``difference`` [T], whose examples are independent.

    ``owners`` [T] is the example of each token. Infinite for fewer than two examples: nothing is
    known of their spread.
    """
    examples = len(torch.unique(owners))
    if examples < 2:
        return math.inf
    residual = difference - difference.mean()
    sums = torch.zeros(int(owners.max()) + 1, dtype=torch.float64).index_add_(0, owners, residual)
    variance = sums.square().sum() * examples / (examples - 1)
    return float(variance.sqrt()) / len(difference)
