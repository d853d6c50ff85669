"""The start: sketches keep angles, and k-means on sums alone finds the planted domains."""

from __future__ import annotations

import pytest
import torch

from fedvemoe_app import seeds
from fedvemoe_app.em.sketch import (
    best,
    centred,
    join,
    lloyd,
    moments,
    nearest,
    project,
    seeds_of,
    unit,
)
from tests.bigram import World, agreement, silos
from tests.em.start import clustered


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


def test_a_lloyd_step_never_lowers_the_summed_cosine() -> None:
    rng = seeds.stream(3, "lloyd")
    directions = unit(vectors(3, 40, size=6))
    centroids, last = seeds_of(directions.T @ directions, 3, 5, rng), None
    for _ in range(10):
        total = join(directions[0], centroids)
        for direction in directions[1:]:
            total = total + join(direction, centroids)
        assert last is None or bool((total.cosine >= last - 1e-12).all())
        assert bool((total.members > 0).all())
        assert torch.equal(total.members.sum(dim=1), torch.full((5,), 40.0).double())
        last, centroids = total.cosine, lloyd(centroids, total, rng)


def test_first_centroids_are_unit_vectors_of_the_leading_eigenspace() -> None:
    second = torch.diag(torch.tensor([1.0, 9.0, 2.0, 8.0], dtype=torch.float64))
    drawn = seeds_of(second, 2, 7, seeds.stream(4, "draw"))
    assert drawn.shape == (7, 2, 4)
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(7, 2).double())
    assert torch.allclose(drawn[..., [0, 2]], torch.zeros(7, 2, 2).double(), atol=1e-12)


def test_an_empty_cluster_starts_anew() -> None:
    east, west = torch.eye(2, dtype=torch.float64)[0], -torch.eye(2, dtype=torch.float64)[0]
    centroids = torch.stack([east, west]).unsqueeze(0)
    total = join(east, centroids)
    moved = lloyd(centroids, total, seeds.stream(5, "fresh"))
    assert torch.allclose(moved[0, 0], east)
    assert not torch.allclose(moved[0, 1], west)
    assert float(moved[0, 1].norm()) == pytest.approx(1.0)


def test_the_best_restart_has_the_largest_summed_cosine() -> None:
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64)
    good = torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    poor = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    centroids = torch.stack([poor, good])
    assert torch.equal(best(centroids, join(direction, centroids)), good)
    assert nearest(direction, good) == 0
    assert nearest(torch.tensor([0.1, 0.9], dtype=torch.float64), good) == 1


def test_centring_takes_off_what_all_share() -> None:
    common = torch.tensor([10.0, 0.0], dtype=torch.float64)
    up, down = common + torch.tensor([0.0, 1.0]), common + torch.tensor([0.0, -1.0])
    total = moments(up) + moments(down)
    mean = total.first / total.silos
    assert centred(up, mean).tolist() == [0.0, 1.0]
    assert centred(down, mean).tolist() == [0.0, -1.0]
