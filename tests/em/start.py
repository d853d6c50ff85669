"""The start as the server and its silos play it: only sums pass between them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from fedvemoe_app import seeds
from fedvemoe_app.em.sketch import best, centred, join, lloyd, moments, nearest, project, seeds_of
from fedvemoe_app.em.state import Bank
from tests.bigram import Bigram


def clustered(family: Sequence[Bigram], bank: Bank, *, clusters: int, seed: int) -> list[int]:
    """Return each silo's cluster: 32 numbers a sketch, 16 restarts, 8 Lloyd steps."""
    sketches = [project(silo.start_gradient(bank.experts), size=32, seed=seed) for silo in family]
    total = functools.reduce(operator.add, map(moments, sketches))
    directions = [centred(sketch, total.first / total.silos) for sketch in sketches]
    total = functools.reduce(operator.add, map(moments, directions))
    rng = seeds.stream(seed, "start")
    centroids = seeds_of(total.second, clusters, 16, rng)
    for _ in range(8):
        sums = functools.reduce(operator.add, [join(d, centroids) for d in directions])
        centroids = lloyd(centroids, sums, rng)
    sums = functools.reduce(operator.add, [join(d, centroids) for d in directions])
    chosen = best(centroids, sums)
    return [nearest(direction, chosen) for direction in directions]
