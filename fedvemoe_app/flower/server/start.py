"""The start over the wire: k-means on the silos' gradient sketches, a few tiny exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.config import RunConfig
from fedvemoe_app.em import sketch
from fedvemoe_app.em.shapes import clusters_shapes, moments_shapes
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors

Ask = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Sends tensors to all silos as a query of that name and returns their sums."""
Exchange = Callable[[str, RecordDict], Mapping[str, Tensor]]
"""Sends a content to all silos as a query of that name and returns their sums."""


def clusters_of(exchange: Exchange, config: RunConfig) -> tuple[dict[str, Tensor], Tensor]:
    """Return what ``find_clusters`` returns, asked for by whole messages."""
    em = config.em

    def ask(query: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        content = RecordDict()
        put_facts(content, "order", {"round": 0})
        shapes = moments_shapes(em.sketch_size)
        if tensors:
            put_tensors(content, "start", tensors)
            shapes = clusters_shapes(*tensors["centroids"].shape)
        Template(shapes).put(content)
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
    """Return what a silo needs to find its first expert, and the silos that start with each [K].

    The former, ``mean`` [d] and ``centroids`` [C, d], are to be sent; the latter stay here. C is
    K = ``clusters``, but no more than can have ``least`` members each: in more, the silos of one
    domain lie in pieces that are all too small. The other experts start without silos.

    One exchange for the moments, then for each k-means iteration one that counts members and one
    that sums directions, of clusters with ``least`` members alone, all restarts side by side; a
    last one counts. It stops early when no restart moves whose clusters are all large enough.
    """
    rng = seeds.stream(seed, "start")
    moments = sketch.Moments.from_arrays(ask("sketch", {}))
    possible = max(1, int(moments.silos.round()) // max(1, least))
    experts, clusters = clusters, min(clusters, possible)
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
    members = counted.members[chosen]
    started = torch.nn.functional.pad(members, (0, experts - clusters))
    return {"mean": mean, "centroids": centroids[chosen]}, started
