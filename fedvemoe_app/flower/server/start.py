"""The start over the wire: k-means on the silos' gradient sketches, a few tiny exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.config import RunConfig
from fedvemoe_app.em import sketch
from fedvemoe_app.em.shapes import Shapes, clusters_shapes, moments_shapes
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors

Ask = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Sends tensors to all silos as a query of that name and returns their sums."""
Exchange = Callable[[str, RecordDict], Mapping[str, Tensor]]
"""Sends a content to all silos as a query of that name and returns their sums."""


def start_shapes(size: int, clusters: int, restarts: int) -> dict[str, Shapes]:
    """Return the shapes of the start's sums by query, for sketches of ``size`` numbers."""
    return {
        "sketch": moments_shapes(size),
        "cluster": clusters_shapes(restarts, clusters, size),
    }


def clusters_of(exchange: Exchange, config: RunConfig) -> tuple[dict[str, Tensor], Tensor]:
    """Return what ``find_clusters`` returns, asked for by whole messages."""
    em = config.em
    shapes = start_shapes(em.sketch_size, em.k_init, em.sketch_restarts)

    def ask(query: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        content = RecordDict()
        put_facts(content, "order", {"round": 0})
        Template(shapes[query]).put(content)
        if tensors:
            put_tensors(content, "start", tensors)
        return exchange(query, content)

    return find_clusters(
        ask,
        clusters=em.k_init,
        restarts=em.sketch_restarts,
        iterations=em.sketch_iterations,
        seed=config.output.seed,
        least=config.output.c_min,
    )


def find_clusters(
    ask: Ask, *, clusters: int, restarts: int, iterations: int, seed: int, least: int = 1
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what a silo needs to find its first expert, and the silos in each cluster [K].

    The former, ``mean`` [d] and ``centroids`` [K, d], are to be sent; the latter stay here.
    One exchange for the moments, then for each k-means iteration one that counts members and one
    that sums directions, of clusters with ``least`` members alone, all restarts side by side; a
    last one counts. It stops early when no restart moves whose clusters are all large enough.
    """
    rng = seeds.stream(seed, "start")
    moments = sketch.Moments.from_arrays(ask("sketch", {}))
    mean = moments.first / moments.silos
    spread = moments.second - moments.silos * torch.outer(mean, mean)

    def summed(centroids: Tensor, opened: Tensor) -> sketch.Clusters:
        asked = {"mean": mean, "centroids": centroids, "open": opened}
        return sketch.Clusters.from_arrays(ask("cluster", asked))

    centroids = sketch.seeds_of(spread, clusters, restarts, rng)
    counted = summed(centroids, torch.zeros(restarts, clusters, dtype=torch.bool))
    for _ in range(iterations):
        opened = sketch.crowded(counted.members, least)
        total = summed(centroids, opened) if opened.any() else counted
        moved = sketch.lloyd(total, opened, sketch.seeds_of(spread, clusters, restarts, rng))
        able = opened.all(dim=1)
        if able.any() and torch.allclose(moved[able], centroids[able], atol=1e-9):
            break
        centroids = moved
        counted = summed(centroids, torch.zeros_like(opened))
    chosen = sketch.best(counted, least)
    return {"mean": mean, "centroids": centroids[chosen]}, counted.members[chosen]
