"""What silos add for the bank's structure: who is dissatisfied, where they pull, what they seed.

A silo's wish for an expert is the direction of its change: a unit vector of d random projections
of the delta. The server gets, per expert and projection, sum and sum of squares of the wishes:
enough to find the projection in which silos differ most, and too little to solve for a silo's
wish (their outer products would give three silos away up to their order; see docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedvemoe_app.em.family import Fit
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.em.sketch import project_each
from fedvemoe_app.em.statistics import Sums, spread


@dataclass(frozen=True, slots=True)
class Unrest(Sums):
    """Sums of an assessment: ``unhappy [K, 2]``, ``shared [K, K]``, ``edge []``, ``merged []``.

    ``unhappy`` counts dissatisfied silos by main expert and side; ``shared`` is r_ij r_ik, from
    which it is known which experts the same silos use. ``edge`` is the worth of the expert on
    trial where every silo has its private slot beside; ``merged`` the score F with the merged
    candidate in the place of its two. Both are nats per token summed over silos; zero where there
    is no trial or no candidate.
    """

    unhappy: Tensor
    shared: Tensor
    edge: Tensor
    merged: Tensor


@dataclass(frozen=True, slots=True)
class Wishes(Sums):
    """Sums of a training round: ``wishing [K]`` silos, and their ``wishes [K, d]``, also squared.

    An expert's vectors open only to a crowd of contributors, and so do its wishes.
    """

    wishing: Tensor
    wishes: Tensor
    wishes_squared: Tensor


@dataclass(frozen=True, slots=True)
class Seeds(Sums):
    """Sums of a round with a birth: ``seeds []`` silos, ``seed_weight []``, ``seed`` [1, ...].

    ``seed`` holds per trained tensor the change of the parent times the silo's weight.
    """

    seeds: Tensor
    seed_weight: Tensor
    seed: dict[str, Tensor]


def wishes(fit: Fit, slots: Tensor, open_: Tensor, rules: Rules) -> Wishes:
    """Return one silo's wishes for the ``slots`` [m] it trained that are open [K]."""
    size = len(open_)
    drawn = project_each(fit.delta, size=rules.sketch_size, seed=rules.seed)
    heard = open_[slots].to(torch.float64) * (drawn.norm(dim=1) > 0)
    return Wishes(
        wishing=spread(heard, slots, size),
        wishes=spread(heard.unsqueeze(1) * drawn, slots, size),
        wishes_squared=spread(heard.unsqueeze(1) * drawn**2, slots, size),
    )


def no_wishes(size: int, rules: Rules) -> Wishes:
    """Return what a silo adds that trained nothing."""
    wide = torch.zeros(size, rules.sketch_size, dtype=torch.float64)
    return Wishes(wide[:, 0].clone(), wide, wide.clone())


def seeds(fit: Fit, row: int | None, silo_weight: float) -> Seeds:
    """Return one silo's seed, row ``row`` of what it trained, or zeros where it seeds nothing."""
    weight = 0.0 if row is None else silo_weight
    at = row or 0
    return Seeds(
        seeds=torch.tensor(float(row is not None), dtype=torch.float64),
        seed_weight=torch.tensor(weight, dtype=torch.float64),
        seed={name: weight * change[at : at + 1] for name, change in fit.delta.items()},
    )


def sides(total: Wishes) -> tuple[Tensor, Tensor]:
    """Return per expert the axis [K, d] along which wishes differ most, and their mean on it [K].

    The axis is the projection of the largest variance; zeros where nobody's wish was heard.
    """
    count = total.wishing.clamp(min=1).unsqueeze(1)
    mean = total.wishes / count
    variance = total.wishes_squared / count - mean**2
    widest = variance.argmax(dim=1)
    axis = torch.nn.functional.one_hot(widest, mean.shape[1]).to(torch.float64)
    axis = axis * (total.wishing > 0).unsqueeze(1)
    return axis, (axis * mean).sum(dim=1)
