"""What one way of predicting gains over another, held out, and how sure that is.

Used where a decision hangs on a difference: whether the bank serves a silo, and how much a few
local steps would add (the regret that opens new experts). Weights are inferred on one half of
the probe and scored on the other; the standard error is over examples, for tokens of one
answer are no independent witnesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvemoe_app.em.responsibilities import evidence, stack


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

    def refuses(self, threshold: float) -> bool:
        """Say whether the error is known, and the gain does not exceed ``threshold``."""
        return math.isfinite(self.error) and not self.exceeds(threshold)


def held_out(log_lik: Tensor, owners: Tensor, prior: Tensor, *, tau: float = 1.0) -> Tensor:
    """Return ``log sum_k r_k p_k(y_t)`` [T], with r from the other half of the probe.

    ``log_lik`` [T, K] nats; ``owners`` [T] the example of each token: even and odd examples make
    the halves. The mean over tokens is the total of ``em.scores.cross_fitted``.
    """
    even = owners % 2 == 0
    found = torch.empty(len(log_lik), dtype=torch.float64)
    for half in (even, ~even):
        found[half] = evidence(log_lik[half], stack(log_lik[~half], prior, tau=tau))
    return found


def gain(better: Tensor, worse: Tensor, owners: Tensor) -> Gain:
    """Return the mean of ``better - worse`` [T] over tokens, with its error over examples."""
    difference = better - worse
    if not len(difference):
        return Gain(0.0, math.inf)
    mean = difference.mean()
    size = int(owners.max()) + 1
    spread = torch.zeros(size, dtype=torch.float64).index_add_(0, owners, difference - mean)
    examples = len(torch.unique(owners))
    if examples < 2:
        return Gain(float(mean), math.inf)
    correction = examples / (examples - 1)
    error = math.sqrt(correction * float(spread.square().sum())) / len(difference)
    return Gain(float(mean), error)
