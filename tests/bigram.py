"""A bigram language model with LoRA experts: small enough to compare with exact losses.

The frozen base gives logits ``W0 [V, V]`` (next, previous); a domain is the base plus a planted
perturbation of rank two; an expert adds ``B A``. Contexts are drawn evenly, so the expected loss
of any mixture, and the entropy below which none can fall, are means over a V x V table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.family import Experts, Fit, Probe
from fedvemoe_app.em.mixture import token_posterior
from fedvemoe_app.em.state import Bank

V = 16
RANK = 4
EXAMPLE = 10


@dataclass(frozen=True)
class World:
    """Planted ``logits`` [D, V, V] around ``base`` [V, V]; ``domains`` their log-softmax."""

    base: Tensor
    logits: Tensor
    domains: Tensor

    @classmethod
    def planted(cls, seed: int, *, domains: int, amplitude: float = 1.6) -> World:
        rng = seeds.stream(seed, "bigram world")
        base = rng.standard_normal((V, V))
        left, right = rng.standard_normal((2, domains, V, 2))
        logits = base + amplitude / np.sqrt(2) * np.einsum("dvr,dur->dvu", left, right)
        planted = torch.from_numpy(logits)
        return cls(torch.from_numpy(base), planted, planted.log_softmax(dim=1))

    def start(self, seed: int, *, experts: int) -> Bank:
        """Return a bank of equal experts: one A for all, B = 0."""
        down = torch.from_numpy(seeds.stream(seed, "bigram A").standard_normal((RANK, V)) / 4)
        shared = down.expand(experts, -1, -1).clone()
        up = torch.zeros(experts, V, RANK, dtype=torch.float64)
        return Bank.start({"A": shared, "B": up}, alive=experts)

    def log_probs(self, experts: Experts) -> Tensor:
        """Return [K, V, V] log-probabilities (next, previous)."""
        return (self.base + experts["B"] @ experts["A"]).log_softmax(dim=1)

    def silo(
        self,
        domain: int,
        tokens: int,
        rng: np.random.Generator,
        *,
        habit: float = 0.0,
        **options: object,
    ) -> Bigram:
        """Return a silo with ``tokens`` of one domain for training and 300 as its probe.

        ``habit`` is the amplitude of a perturbation of rank two that is the silo's own.
        """
        left, right = rng.standard_normal((2, V, 2)) if habit else np.zeros((2, V, 2))
        own = torch.from_numpy(habit / np.sqrt(2) * left @ right.T)
        truth = (self.domains[domain] + own).log_softmax(dim=0)
        total = tokens + 300
        before = rng.integers(V, size=total)
        chances = truth.exp().numpy().cumsum(axis=0)[:, before]
        after = (rng.random(total) > chances).sum(axis=0).clip(max=V - 1)
        pairs = torch.from_numpy(np.stack([before, after], axis=1))
        return Bigram(self, domain, pairs[300:], pairs[:300], truth, **options)

    def excess(self, silo: Bigram, experts: Experts, weights: Tensor) -> float:
        """Return the expected loss of a silo's mixture over the entropy floor, nats per token."""
        mixed = torch.logsumexp(self.log_probs(experts) + weights.log().view(-1, 1, 1), dim=0)
        return float((silo.truth.exp() * (silo.truth - mixed)).sum(dim=0).mean())


@dataclass(frozen=True)
class Bigram:
    """A silo of one domain; ``train [T, 2]`` and ``held_out [H, 2]`` hold (previous, next).

    ``truth [V, V]`` are the log-probabilities that its tokens were drawn from.
    """

    world: World
    domain: int
    train: Tensor
    held_out: Tensor
    truth: Tensor
    optimiser: Literal["adam", "sgd"] = "adam"
    steps: int = 5
    learning_rate: float = 0.05
    factors: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.train)

    def probe(
        self, experts: Experts, slots: Sequence[int], *, held_out_only: bool = False
    ) -> Probe:
        lengths = tuple(map(len, torch.split(self.held_out, EXAMPLE)))
        log_lik = self._log_lik(_chosen(experts, slots), self.held_out)
        return Probe(log_lik, lengths, len(lengths))

    def fit(self, experts: Experts, slots: Sequence[int], weights: Tensor, round_: int) -> Fit:
        """Descend the self-normalised loss; B in odd rounds and A in even ones, or ``factors``."""
        start = _chosen(experts, slots)
        factors = self.factors or ("B" if round_ % 2 else "A",)
        trained = {name: start[name].clone().requires_grad_() for name in factors}
        kind = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.optimiser]
        optimiser = kind(trained.values(), lr=self.learning_rate, weight_decay=0.0)
        mean_alpha, loss = torch.zeros_like(weights), 0.0
        for _ in range(self.steps):
            log_lik = self._log_lik({**start, **trained}, self.train)
            alpha = token_posterior(log_lik.detach(), weights)
            optimiser.zero_grad()
            (-(alpha * log_lik).sum(dim=0) / alpha.sum(dim=0)).sum().backward()
            optimiser.step()
            mean_alpha += alpha.mean(dim=0) / self.steps
            mixed = torch.logsumexp(log_lik.detach() + weights.log(), dim=1)
            loss -= float(mixed.mean()) / self.steps
        delta = {name: trained[name].detach() - start[name] for name in factors}
        return Fit(delta, mean_alpha, loss, self.size)

    def start_gradient(self, experts: Experts) -> dict[str, Tensor]:
        """Return the gradient of the mean loss with respect to B of the first expert."""
        first = _chosen(experts, [0])
        up = first["B"].clone().requires_grad_()
        loss = -self._log_lik({**first, "B": up}, self.train).mean()
        return {"B": torch.autograd.grad(loss, up)[0]}

    def _log_lik(self, experts: Experts, pairs: Tensor) -> Tensor:
        return self.world.log_probs(experts)[:, pairs[:, 1], pairs[:, 0]].T


def _chosen(experts: Experts, slots: Sequence[int]) -> dict[str, Tensor]:
    return {name: stack[list(slots)] for name, stack in experts.items()}


def silos(
    world: World, seed: int, *, number: int, smallest: int = 150, **options: object
) -> list[Bigram]:
    """Return silos that take the world's domains in turn, with up to 1500 tokens each.

    ``options`` go to ``World.silo``.
    """
    rng = seeds.stream(seed, "bigram silos")
    sizes = np.exp(rng.uniform(np.log(smallest), np.log(1500), size=number)).astype(int)
    domains = len(world.domains)
    return [world.silo(i % domains, int(n), rng, **options) for i, n in enumerate(sizes)]


def agreement(found: Sequence[int], planted: Sequence[int]) -> float:
    """Return the normalised mutual information of two partitions, in [0, 1]."""
    table = np.zeros((max(found) + 1, max(planted) + 1))
    np.add.at(table, (list(found), list(planted)), 1 / len(planted))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    both = table > 0
    mutual = (table[both] * np.log(table[both] / np.outer(rows, columns)[both])).sum()
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (rows, columns)]
    return float(2 * mutual / sum(entropies)) if sum(entropies) > 0 else 1.0
