"""Who is asked to train: a seeded draw over silo names, whatever their nodes are called."""

from __future__ import annotations

import pytest

from fedvemoe_app.flower.server.consortium import Consortium, sample_size

NAMES = [f"silo-{i:02d}" for i in range(10)]


@pytest.mark.parametrize(
    ("fraction", "silos", "count"),
    [(1.0, 7, 7), (0.5, 4, 2), (0.5, 5, 3), (0.55, 20, 11), (0.07, 100, 7), (1e-6, 4, 1)],
)
def test_a_fraction_is_rounded_up_to_whole_silos(fraction: float, silos: int, count: int) -> None:
    assert sample_size(fraction, silos) == count


def test_the_draw_depends_on_seed_and_round_and_not_on_node_numbers() -> None:
    one = Consortium({name: node for node, name in enumerate(NAMES)})
    other = Consortium({name: 99 - node for node, name in enumerate(reversed(NAMES))})
    drawn = one.sample(0.3, 0, 1)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 3
    assert other.sample(0.3, 0, 1) == drawn
    draws = {tuple(one.sample(0.3, seed, r)) for seed in (0, 1) for r in range(5)}
    assert len(draws) > 5


def test_in_time_everybody_is_drawn() -> None:
    consortium = Consortium(dict.fromkeys(NAMES, 0))
    drawn = {name for r in range(40) for name in consortium.sample(0.3, 0, r)}
    assert drawn == set(NAMES)
