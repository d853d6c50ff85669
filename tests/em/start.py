"""The start as the server and its silos play it: only sums pass between them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from fedvemoe_app.em.sketch import Clusters, centred, join, moments, nearest, project
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Sums
from fedvemoe_app.flower.server.start import find_clusters
from tests.bigram import Bigram

S = TypeVar("S", bound=Sums)
Watch = Callable[[Mapping[str, Tensor], Clusters], None]
"""Sees what is asked of silos, and the sums that the server gets."""


def sketched(family: Sequence[Bigram], bank: Bank, seed: int) -> list[Tensor]:
    """Return each silo's sketch of 32 numbers."""
    return [project(silo.start_gradient(bank.experts), size=32, seed=seed) for silo in family]


def found_in(
    sketches: Sequence[Tensor],
    *,
    clusters: int,
    seed: int,
    least: int = 1,
    iterations: int = 4,
    watch: Watch = lambda asked, total: None,
) -> tuple[list[int], Tensor]:
    """Return each silo's cluster, and the counted members [K]."""

    def ask(query: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if query == "sketch":
            return added([moments(one) for one in sketches]).arrays()
        directions = [centred(one, tensors["mean"]) for one in sketches]
        joined = [join(one, tensors["centroids"], tensors["open"]) for one in directions]
        total = added(joined)
        watch(tensors, total)
        return total.arrays()

    start, members = find_clusters(
        ask, clusters=clusters, restarts=64, iterations=iterations, seed=seed, least=least
    )
    directions = [centred(one, start["mean"]) for one in sketches]
    return [nearest(one, start["centroids"]) for one in directions], members


def added(parts: Sequence[S]) -> S:
    """Return the sum of records."""
    return functools.reduce(operator.add, parts)


def clustered(family: Sequence[Bigram], bank: Bank, *, clusters: int, seed: int) -> list[int]:
    """Return each silo's cluster after a start as by default."""
    return found_in(sketched(family, bank, seed), clusters=clusters, seed=seed)[0]
