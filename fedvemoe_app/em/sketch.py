"""The start: silos find their first expert by clustering gradient sketches, from sums alone.

With B = 0 all experts are equal and stay nearly so. Each silo sketches the gradient of its loss
with respect to B (shared A), d numbers that keep angles; spherical k-means runs on sums over
silos per centroid, all restarts side by side in one message (method-details.md, 2.5). A sum
over one silo is its direction, so members are counted before directions are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.statistics import Sums

EQUAL = 1e-6
"""Relative difference of summed cosines that is rounding: sums of integers and of floats."""


@dataclass(frozen=True, slots=True)
class Moments(Sums):
    """``silos []``, ``first [d]`` sum of sketches, ``second [d, d]`` sum of outer products."""

    silos: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, slots=True)
class Clusters(Sums):
    """Per restart R and centroid K: ``members [R, K]``, ``vectors [R, K, d]``, ``cosine [R]``.

    Vectors are zero for clusters that are not open; members and cosines count all silos.
    """

    members: Tensor
    vectors: Tensor
    cosine: Tensor


def project(gradient: Mapping[str, Tensor], *, size: int, seed: int) -> Tensor:
    """Return the unit-norm sketch [size] float64 of named tensors by a public random projection.

    Each entry of a tensor goes, with a random sign, into one random number of the sketch (a count
    sketch; Charikar, Chen and Farach-Colton 2002). Inner products are kept without bias, and with
    a variance of no more than a Gaussian matrix's (1 + cos^2) / size (Weinberger et al. 2009), for
    two draws an entry instead of ``size``. A zero gradient gives a zero sketch.
    """
    alone = {name: tensor.unsqueeze(0) for name, tensor in gradient.items()}
    return project_each(alone, size=size, seed=seed)[0]


def project_each(stacks: Mapping[str, Tensor], *, size: int, seed: int) -> Tensor:
    """Return the sketches [m, size] of m sets of named tensors [m, ...], by one projection."""
    sketches = np.zeros((len(next(iter(stacks.values()))), size))
    for name in sorted(stacks):
        flat = stacks[name].detach().to("cpu", torch.float64).flatten(1).numpy()
        rng = seeds.stream(seed, "sketch", name)
        place = rng.integers(size, size=flat.shape[1])
        flat = flat * (2.0 * rng.integers(2, size=flat.shape[1]) - 1.0)
        for sketch, entries in zip(sketches, flat, strict=True):
            sketch += np.bincount(place, weights=entries, minlength=size)
    return unit(torch.from_numpy(sketches))


def unit(vectors: Tensor) -> Tensor:
    """Return ``vectors`` [..., d] scaled to length one; zero vectors stay zero."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.clamp(min=1e-300)


def moments(sketch: Tensor) -> Moments:
    """Return one silo's moments of its sketch [d]."""
    return Moments(torch.tensor(1.0, dtype=torch.float64), sketch, torch.outer(sketch, sketch))


def centred(sketch: Tensor, mean: Tensor) -> Tensor:
    """Return the direction in which a silo's sketch differs from the mean of all."""
    return unit(sketch - mean)


def seeds_of(second: Tensor, clusters: int, restarts: int, rng: np.random.Generator) -> Tensor:
    """Draw first centroids [R, K, d]: random directions in the leading eigenspace of ``second``."""
    _, vectors = torch.linalg.eigh(second)
    basis = vectors[:, -max(clusters, 2) :]
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    basis = basis * largest.sign()  # an eigenvector's sign is no more than rounding
    draws = torch.from_numpy(rng.standard_normal((restarts, clusters, basis.shape[1])))
    return unit(draws @ basis.T)


def join(direction: Tensor, centroids: Tensor, opened: Tensor) -> Clusters:
    """Return one silo's part in a step: it joins the nearest centroid of every restart.

    Its direction goes into clusters that are ``opened`` [R, K] alone.
    """
    cosines = centroids @ direction  # [R, K]
    best = cosines.max(dim=1)
    members = torch.nn.functional.one_hot(best.indices, centroids.shape[1]).to(torch.float64)
    return Clusters(members, (members * opened).unsqueeze(-1) * direction, best.values)


def crowded(members: Tensor, least: int) -> Tensor:
    """Return which clusters [R, K] may be summed, for counted ``members`` [R, K].

    A cluster of fewer than ``least`` silos is closed. So are, per restart, the smallest others
    until all that is closed holds nobody or ``least`` silos: the directions of all silos together
    are known from restarts without a closed cluster, and what is open could be subtracted.
    """
    opened = members.round() >= max(least, 1)
    for counts, row in zip(members.round(), opened, strict=True):
        while row.any() and 0 < counts[~row].sum() < least:
            row[int(counts.where(row, torch.inf).argmin())] = False
    return opened


def lloyd(total: Clusters, opened: Tensor, fresh: Tensor) -> Tensor:
    """Return the next centroids [R, K, d]: means of what is open, ``fresh`` ones for the rest."""
    return torch.where(opened.unsqueeze(-1), unit(total.vectors), fresh)


def best(total: Clusters, least: int) -> int:
    """Return the restart with the largest summed cosine, of those with ``least`` in all clusters.

    Where no restart has that many in every cluster, all are compared. Of equals, but for rounding,
    it is the first.
    """
    able = (total.members.round() >= least).all(dim=1)
    cosine = torch.where(able | ~able.any(), total.cosine, -torch.inf)
    return int((cosine >= cosine.max() - EQUAL * cosine.max().abs()).to(torch.uint8).argmax())


def nearest(direction: Tensor, centroids: Tensor) -> int:
    """Return the number of the centroid [K, d] that a silo's direction [d] belongs to."""
    return int((centroids @ direction).argmax())
