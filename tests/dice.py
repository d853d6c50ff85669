"""Loaded dice: a family of experts whose M-step is exact, so that laws hold to rounding.

An expert is a probability vector over V faces. ``fit`` returns the weighted maximum-likelihood
estimate less the current vector; with ``silo_weight="tokens"``, no shrinkage and every silo
present, the server's step is then the exact M-step on the pooled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.family import Experts, Fit, Probe
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.em.responsibilities import evidence
from fedvemoe_app.em.state import Bank

FACES = 6


@dataclass(frozen=True)
class Dice:
    """A silo that holds ``rolls`` [T], its training data and its probe alike."""

    rolls: Tensor
    gamma: float = 1.0
    example: int = 10

    @property
    def size(self) -> int:
        return len(self.rolls)

    def probe(
        self, experts: Experts, slots: Sequence[int], *, held_out_only: bool = False
    ) -> Probe:
        parts = torch.split(self.rolls, self.example)
        return Probe(self._log_lik(experts, slots), tuple(map(len, parts)), len(parts))

    def fit(self, experts: Experts, slots: Sequence[int], weights: Tensor, round_: int) -> Fit:
        log_lik = self._log_lik(experts, slots)
        alpha = token_posterior(log_lik, weights, gamma=self.gamma)
        counts = alpha.T @ torch.nn.functional.one_hot(self.rolls, FACES).to(torch.float64)
        estimate = counts / counts.sum(dim=1, keepdim=True)
        return Fit(
            delta={"faces": estimate - experts["faces"][list(slots)]},
            mean_alpha=alpha.mean(dim=0),
            loss=-float(evidence(log_lik, weights).mean()),
            tokens=self.size,
        )

    def _log_lik(self, experts: Experts, slots: Sequence[int]) -> Tensor:
        # p + (estimate - p) may miss zero by rounding, to either side
        return experts["faces"][list(slots)].clamp(min=0.0).log()[:, self.rolls].T


def loaded(rng: np.random.Generator, dice: int) -> Tensor:
    """Return [dice, V] random probability vectors."""
    return torch.from_numpy(rng.dirichlet(np.ones(FACES), size=dice))


def bank_of(faces: Tensor, prior: Tensor | None = None) -> Bank:
    bank = Bank.start({"faces": faces}, alive=len(faces))
    return bank if prior is None else Bank(bank.experts, bank.alive, prior)


def silos(seed: int, *, number: int = 6, dice: int = 3, gamma: float = 1.0) -> list[Dice]:
    """Return silos of unequal size, each rolling its own mixture of some true dice."""
    rng = seeds.stream(seed, "dice silos")
    truth = loaded(rng, dice).numpy()
    mixtures = rng.dirichlet(np.full(dice, 0.5), size=number)
    sizes = rng.integers(25, 150, size=number)
    rolls = [
        rng.choice(FACES, size=size, p=mixture @ truth)
        for mixture, size in zip(mixtures, sizes, strict=True)
    ]
    return [Dice(torch.from_numpy(r), gamma) for r in rolls]
