"""The start over the wire: k-means on the silos' gradient sketches, a few tiny exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em import sketch
from fedvemoe_app.em.shapes import Shapes, clusters_shapes, moments_shapes

Ask = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Sends tensors to all silos as a query of that name and returns their sums."""


def start_shapes(size: int, clusters: int, restarts: int) -> dict[str, Shapes]:
    """Return the shapes of the start's sums by query, for sketches of ``size`` numbers."""
    return {
        "sketch": moments_shapes(size),
        "cluster": clusters_shapes(restarts, clusters, size),
    }


def find_clusters(
    ask: Ask, *, clusters: int, restarts: int, iterations: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what a silo needs to find its first expert, and the silos in each cluster [K].

    The former, ``mean`` [d] and ``centroids`` [K, d], are to be sent; the latter stay here.
    One exchange for the moments, one per k-means iteration, all restarts side by side; it stops
    early when no centroid moves.
    """
    rng = seeds.stream(seed, "start")
    moments = sketch.Moments.from_arrays(ask("sketch", {}))
    mean = moments.first / moments.silos
    spread = moments.second - moments.silos * torch.outer(mean, mean)
    centroids = sketch.seeds_of(spread, clusters, restarts, rng)
    for _ in range(iterations):
        total = sketch.Clusters.from_arrays(ask("cluster", {"mean": mean, "centroids": centroids}))
        moved = sketch.lloyd(centroids, total, rng)
        still = torch.allclose(moved, centroids, atol=1e-9)
        best, members = sketch.best(moved, total), sketch.best(total.members, total)
        centroids = moved
        if still:
            break
    return {"mean": mean, "centroids": best}, members
