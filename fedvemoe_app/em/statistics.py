"""What silos contribute: statistics that add. Many silos equal one pooled silo.

Nothing here is a mean: a mean of means cannot be masked and forgets mass. The server divides
once, at the very end (``em.round.train_step``). Counts, weights and scores are float64;
tensors of an update keep float32 per silo and are summed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from fedvemoe_app.em.family import Fit
from fedvemoe_app.em.responsibilities import Responsibilities
from fedvemoe_app.em.scores import Scores


@dataclass(frozen=True, slots=True)
class Sums:
    """A record of tensors, and of named families of tensors; sums of it are float64."""

    def __add__(self, other: Self) -> Self:
        mine, theirs = self.arrays(), other.arrays()
        return self.from_arrays(
            {name: array.to(torch.float64) + theirs[name] for name, array in mine.items()}
        )

    def arrays(self) -> dict[str, Tensor]:
        """Return every tensor by name; those of a family are called ``field/name``."""
        flat: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            family = value if isinstance(value, dict) else {"": value}
            flat |= {f"{field.name}/{key}".rstrip("/"): array for key, array in family.items()}
        return flat

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """Return the record of ``arrays``; raises KeyError where a plain field is missing."""
        values: dict[str, object] = {}
        for field in fields(cls):
            prefix = f"{field.name}/"
            family = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            values[field.name] = family or arrays[field.name]
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Assessment(Sums):
    """Sums of the E-step over silos; K runs over all slots of the bank, dead ones are zero.

    ``silos []`` how many; ``tokens []`` probe tokens; ``score []`` F_i, nats per token summed over
    silos; ``mass [K]`` r_ik; ``contributors [K]`` silos that will train k; ``gain [K]`` and
    ``gain_variance [K]`` the leave-one-out worth D_k and its squared standard error;
    ``displaced [K, K]`` mass that moves from k to j when k goes.
    """

    silos: Tensor
    tokens: Tensor
    score: Tensor
    mass: Tensor
    contributors: Tensor
    gain: Tensor
    gain_variance: Tensor
    displaced: Tensor


def assessment(found: Responsibilities, scores: Scores, tokens: int, alive: Tensor) -> Assessment:
    """Return one silo's assessment, with its living experts spread over all slots [K]."""
    size = len(alive)
    slots = torch.nonzero(alive).flatten()
    displaced = torch.zeros(size, size, dtype=torch.float64)
    displaced[slots.unsqueeze(1), slots] = scores.displaced
    return Assessment(
        silos=_scalar(1),
        tokens=_scalar(tokens),
        score=_scalar(scores.total),
        mass=spread(found.dense, slots, size),
        contributors=spread((found.train > 0).to(torch.float64), slots, size),
        gain=spread(scores.gain, slots, size),
        gain_variance=spread(scores.variance, slots, size),
        displaced=displaced,
    )


@dataclass(frozen=True, slots=True)
class Update(Sums):
    """Sums of the M-step over silos; K runs over all slots of the bank.

    ``weight [K]`` w_ik = s_i * mean_t alpha_tk; ``silo_weight []`` s_i; ``loss []`` and
    ``tokens []`` training nats and target tokens; ``delta`` per trained tensor
    w_ik (theta_ik - theta_k) [K, ...]; ``squares`` per trained tensor w_ik |theta_ik - theta_k|^2
    [K], from which the spread of the silos' wishes is known.
    """

    silos: Tensor
    tokens: Tensor
    loss: Tensor
    silo_weight: Tensor
    weight: Tensor
    delta: dict[str, Tensor]
    squares: dict[str, Tensor]


def update(fit: Fit, slots: Tensor, size: int, silo_weight: float) -> Update:
    """Return one silo's update from what it trained: ``slots`` [m] of a bank of ``size`` slots."""
    weight = silo_weight * fit.mean_alpha.to(torch.float64)
    delta, squares = {}, {}
    for name, change in fit.delta.items():
        by_expert = weight.to(change.dtype).view(-1, *[1] * (change.dim() - 1))
        delta[name] = spread(by_expert * change, slots, size)
        length = change.flatten(1).to(torch.float64).square().sum(dim=1)
        squares[name] = spread(weight * length, slots, size)
    return Update(
        silos=_scalar(1),
        tokens=_scalar(fit.tokens),
        loss=_scalar(fit.loss * fit.tokens),
        silo_weight=_scalar(silo_weight),
        weight=spread(weight, slots, size),
        delta=delta,
        squares=squares,
    )


def spread(values: Tensor, slots: Tensor, size: int) -> Tensor:
    """Return [size, ...] with ``values`` [m, ...] at ``slots`` [m] and zeros elsewhere."""
    full = torch.zeros(size, *values.shape[1:], dtype=values.dtype)
    full[slots] = values
    return full


def _scalar(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
