"""The start: sketches keep angles, and k-means on sums alone finds the planted domains."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.sketch import (
    Clusters,
    best,
    centred,
    crowded,
    join,
    lloyd,
    moments,
    nearest,
    project,
    seeds_of,
    unit,
)
from tests.bigram import World, agreement, silos
from tests.em.start import added, clustered, found_in, sketched

ALL = torch.tensor(True)


def vectors(seed: int, number: int, size: int = 300) -> torch.Tensor:
    return torch.from_numpy(seeds.stream(seed, "vectors").standard_normal((number, size)))


def test_the_projection_is_deterministic_and_follows_the_seed() -> None:
    gradient = {"up": vectors(0, 4), "down": vectors(1, 2)}
    reordered = dict(reversed(gradient.items()))
    one = project(gradient, size=32, seed=5)
    assert torch.equal(one, project(reordered, size=32, seed=5))
    assert not torch.allclose(one, project(gradient, size=32, seed=6), atol=0.1)
    assert float(one.norm()) == pytest.approx(1.0)


def test_the_projection_keeps_angles() -> None:
    """Goes red when a tensor is left out of the sketch."""
    a, b = vectors(2, 2)
    for share in (0.0, 0.5, 0.9):
        c = share * unit(a) + (1 - share**2) ** 0.5 * unit(b)
        whole = float(unit(a) @ unit(c))
        halves = [{"x": v[:150], "y": v[150:]} for v in (a, c)]
        one, other = (project(half, size=2000, seed=0) for half in halves)
        assert float(one @ other) == pytest.approx(whole, abs=0.07)


def test_tensors_of_equal_size_are_projected_each_in_its_own_way() -> None:
    one, other = vectors(3, 2)
    opposite = project({"x": one, "y": -one}, size=2000, seed=0)
    assert float(opposite.norm()) == pytest.approx(1.0)
    alike = project({"x": other, "y": -other}, size=2000, seed=0)
    assert float(opposite @ alike) == pytest.approx(float(unit(one) @ unit(other)), abs=0.07)


def test_a_zero_gradient_gives_a_zero_sketch() -> None:
    assert torch.equal(project({"B": torch.zeros(3, 3)}, size=8, seed=0), torch.zeros(8).double())


@pytest.mark.parametrize("number", [12, 18, 24])
def test_the_start_finds_planted_domains(number: int) -> None:
    """Goes red when silos join the farthest centroid or the worst restart is kept."""
    hits = 0
    for seed in range(6):
        world = World.planted(seed, domains=4)
        family = silos(world, seed, number=number)
        found = clustered(family, world.start(seed, experts=4), clusters=4, seed=seed)
        hits += agreement(found, [silo.domain for silo in family]) > 0.95
    assert hits >= 5


@pytest.mark.parametrize("least", [2, 3])
def test_the_start_finds_them_where_small_clusters_stay_closed(least: int) -> None:
    """Goes red when closed clusters stay where they are."""
    hits = 0
    for seed in range(6):
        world = World.planted(seed, domains=4)
        family = silos(world, seed, number=4 * least + 2)
        sketches = sketched(family, world.start(seed, experts=4), seed)
        found, members = found_in(sketches, clusters=4, seed=seed, least=least)
        counts = torch.bincount(torch.tensor(found), minlength=4)
        assert members.tolist() == counts.tolist()
        assert counts.min() >= least
        hits += agreement(found, [silo.domain for silo in family]) > 0.95
    assert hits >= 5


def test_with_more_experts_than_crowds_domains_stay_whole() -> None:
    """In seven clusters of twelve silos a domain would lie in pieces of one or two."""
    hits = 0
    for seed in range(6):
        world = World.planted(seed, domains=4)
        family = silos(world, seed, number=12)
        sketches = sketched(family, world.start(seed, experts=7), seed)
        found, members = found_in(sketches, clusters=7, seed=seed, least=3)
        assert members[4:].tolist() == [0, 0, 0]
        assert float(members.sum()) == len(family)
        hits += agreement(found, [silo.domain for silo in family]) > 0.95
    assert hits >= 5


@pytest.mark.parametrize("least", [1, 2, 3, 5, 20])
def test_members_belong_to_the_centroids_that_are_sent(least: int) -> None:
    """Goes red when members are counted before the last step."""
    for seed in range(5):
        found, members = found_in(
            list(unit(vectors(seed, 14, size=8))), clusters=4, seed=seed, least=least, iterations=2
        )
        assert torch.bincount(torch.tensor(found), minlength=4).tolist() == members.tolist()


@pytest.mark.parametrize("least", [2, 3, 4])
def test_directions_are_summed_over_least_silos_alone_and_so_is_what_is_left(least: int) -> None:
    """Goes red without either half of ``crowded``, or when a sum is asked for uncounted."""
    sums = []

    def watch(asked: Mapping[str, Tensor], total: Clusters) -> None:
        opened = asked["open"]
        assert not total.vectors[~opened].any()
        assert bool((total.members[opened] >= least).all())
        for members, row in zip(total.members, opened, strict=True):
            closed = float(members[~row].sum())
            assert not row.any() or closed == 0 or closed >= least
        sums.append(int(opened.sum()))

    for seed in range(5):
        found_in(
            list(unit(vectors(seed, 11, size=8))), clusters=4, seed=seed, least=least, watch=watch
        )
    assert sum(sums) > 0
    assert sums[0] == 0  # counts come first


def test_few_silos_are_closed_and_so_is_what_would_give_them_away() -> None:
    members = torch.tensor(
        [[4, 4, 4, 0], [1, 3, 8, 0], [2, 2, 8, 0], [5, 5, 1, 1], [0, 0, 12, 0]]
    ).double()
    assert crowded(members, 3).tolist() == [
        [True, True, True, False],
        [False, False, True, False],  # one silo is missing from 3 + 8 of 12
        [False, False, True, False],
        [False, True, False, False],
        [False, False, True, False],
    ]
    assert crowded(members, 1).tolist() == (members > 0).tolist()


def test_a_lloyd_step_never_lowers_the_summed_cosine() -> None:
    rng = seeds.stream(3, "lloyd")
    directions = unit(vectors(3, 40, size=6))
    centroids, last = seeds_of(directions.T @ directions, 3, 5, rng), None
    for _ in range(10):
        total = added([join(direction, centroids, ALL) for direction in directions])
        assert last is None or bool((total.cosine >= last - 1e-12).all())
        assert bool((total.members > 0).all())
        assert torch.equal(total.members.sum(dim=1), torch.full((5,), 40.0).double())
        last, centroids = total.cosine, lloyd(total, total.members > 0, centroids)


def test_first_centroids_are_unit_vectors_of_the_leading_eigenspace() -> None:
    second = torch.diag(torch.tensor([1.0, 9.0, 2.0, 8.0], dtype=torch.float64))
    drawn = seeds_of(second, 2, 7, seeds.stream(4, "draw"))
    assert drawn.shape == (7, 2, 4)
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(7, 2).double())
    assert torch.allclose(drawn[..., [0, 2]], torch.zeros(7, 2, 2).double(), atol=1e-12)


def test_a_closed_cluster_starts_anew() -> None:
    east, west = torch.eye(2, dtype=torch.float64)[0], -torch.eye(2, dtype=torch.float64)[0]
    centroids = torch.stack([0.6 * east + 0.8 * west, west]).unsqueeze(0)
    opened = torch.tensor([[True, False]])
    fresh = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    moved = lloyd(join(east, centroids, opened), opened, fresh)
    assert torch.equal(moved[0, 0], east)
    assert torch.equal(moved[0, 1], fresh[0, 1])


def test_the_best_restart_has_the_largest_summed_cosine_and_enough_silos_everywhere() -> None:
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64)
    good = torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    poor = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    total = join(direction, torch.stack([poor, good]), ALL)
    assert best(total, 1) == 1
    assert nearest(direction, good) == 0
    assert nearest(torch.tensor([0.1, 0.9], dtype=torch.float64), good) == 1
    even = Clusters(torch.tensor([[6.0, 2.0], [4.0, 4.0]]), total.vectors, torch.tensor([7.0, 6.0]))
    assert [best(even, least) for least in (1, 2, 3, 5)] == [0, 0, 1, 0]


def test_centring_takes_off_what_all_share() -> None:
    common = torch.tensor([10.0, 0.0], dtype=torch.float64)
    up, down = common + torch.tensor([0.0, 1.0]), common + torch.tensor([0.0, -1.0])
    total = moments(up) + moments(down)
    mean = total.first / total.silos
    assert centred(up, mean).tolist() == [0.0, 1.0]
    assert centred(down, mean).tolist() == [0.0, -1.0]
