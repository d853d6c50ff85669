"""The start: silos find their first expert by clustering gradient sketches, from sums alone.

With B = 0 all experts are equal and stay nearly so. Each silo sketches the gradient of its loss
with respect to B (shared A), d numbers that keep angles; spherical k-means runs on sums over
silos per centroid, all restarts side by side in one message (method-details.md, 2.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.statistics import Sums


@dataclass(frozen=True, slots=True)
class Moments(Sums):
    """``silos []``, ``first [d]`` sum of sketches, ``second [d, d]`` sum of outer products."""

    silos: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, slots=True)
class Clusters(Sums):
    """Per restart R and centroid K: ``members [R, K]``, ``vectors [R, K, d]``, ``cosine [R]``."""

    members: Tensor
    vectors: Tensor
    cosine: Tensor


def project(gradient: Mapping[str, Tensor], *, size: int, seed: int) -> Tensor:
    """Return the unit-norm sketch [size] float64 of named tensors by a public random projection.

    Each tensor is projected by its own seeded Gaussian matrix, drawn row by row, so that no
    matrix of a large model is ever held whole. A zero gradient gives a zero sketch.
    """
    alone = {name: tensor.unsqueeze(0) for name, tensor in gradient.items()}
    return project_each(alone, size=size, seed=seed)[0]


def project_each(stacks: Mapping[str, Tensor], *, size: int, seed: int) -> Tensor:
    """Return the sketches [m, size] of m sets of named tensors [m, ...], by one projection."""
    sketches = np.zeros((len(next(iter(stacks.values()))), size))
    for name in sorted(stacks):
        flat = stacks[name].detach().to("cpu", torch.float64).flatten(1).numpy()
        rng = seeds.stream(seed, "sketch", name)
        for d in range(size):
            sketches[:, d] += flat @ rng.standard_normal(flat.shape[1], dtype=np.float32)
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
    draws = torch.from_numpy(rng.standard_normal((restarts, clusters, basis.shape[1])))
    return unit(draws @ basis.T)


def join(direction: Tensor, centroids: Tensor) -> Clusters:
    """Return one silo's part in a Lloyd step: it joins the nearest centroid of every restart."""
    cosines = centroids @ direction  # [R, K]
    best = cosines.max(dim=1)
    members = torch.nn.functional.one_hot(best.indices, centroids.shape[1]).to(torch.float64)
    return Clusters(members, members.unsqueeze(-1) * direction, best.values)


def lloyd(centroids: Tensor, total: Clusters, rng: np.random.Generator) -> Tensor:
    """Return the next centroids [R, K, d]; an empty cluster starts anew in a random direction."""
    fresh = unit(torch.from_numpy(rng.standard_normal(tuple(centroids.shape))))
    filled = (total.members > 0).unsqueeze(-1)
    return torch.where(filled, unit(total.vectors), fresh)


def best(restarts: Tensor, total: Clusters) -> Tensor:
    """Return what belongs to the restart with the largest summed cosine, of ``restarts`` [R, ...].

    The centroids [R, K, d] give the best centroids [K, d], the members [R, K] their silos [K].
    """
    return restarts[int(total.cosine.argmax())]


def nearest(direction: Tensor, centroids: Tensor) -> int:
    """Return the number of the centroid [K, d] that a silo's direction [d] belongs to."""
    return int((centroids @ direction).argmax())
