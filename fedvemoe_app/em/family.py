"""The seam: a family of experts is anything with a likelihood and a weighted fit.

The language model is one family (``fedvemoe_app.model.family``); loaded dice, whose answers
are exact, are another (``tests/dice.py``). The algorithm knows no more of either than this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Experts = Mapping[str, Tensor]
"""Expert parameters by name, each [K, ...] with the expert axis first."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A silo's probe tokens under every expert it was asked about.

    ``log_lik [T, K]`` nats per target token; ``lengths`` target tokens of each example, in
    order; the first ``held_out`` examples are the probe set proper, never trained on, the rest
    are training examples that top it up where it is short.
    """

    log_lik: Tensor
    lengths: tuple[int, ...]
    held_out: int

    @property
    def owners(self) -> Tensor:
        """The number of the example that each held-out token belongs to."""
        lengths = torch.tensor(self.lengths[: self.held_out], dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(lengths)), lengths)

    @property
    def scored(self) -> Tensor:
        """The rows of the held-out tokens."""
        return self.log_lik[: sum(self.lengths[: self.held_out])]


@dataclass(frozen=True, slots=True)
class Fit:
    """What local training did to m experts.

    ``delta`` holds per trained tensor the change [m, ...]; ``mean_alpha [m]`` the mean token
    posterior seen; ``loss`` the mixture loss in nats per target token; ``tokens`` how many.
    """

    delta: dict[str, Tensor]
    mean_alpha: Tensor
    loss: float
    tokens: int


class Family(Protocol):
    """One silo's data seen through a kind of expert."""

    def probe(
        self, experts: Experts, slots: Sequence[int], *, held_out_only: bool = False
    ) -> Probe:
        """Return the likelihood of the silo's probe under the experts at ``slots``.

        ``held_out_only`` leaves out the training examples that top the probe up.
        """

    def fit(self, experts: Experts, slots: Sequence[int], weights: Tensor, round_: int) -> Fit:
        """Train the experts at ``slots`` as a mixture with ``weights`` [m] on the silo's data."""

    @property
    def size(self) -> int:
        """Number of target tokens of the silo's training data."""
