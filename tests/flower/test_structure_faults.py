"""The lifecycle where silos fall out: what was planned happens whole or not at all.

Removed by hand, each turned a test here red: the crowd that a birth needs once more; that a silo
undoes what it did for a void training, and for a void assessment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedvemoe_app.flower.programs.inprocess import Tamper
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate
from tests.flower.open_world import (
    BIRTH,
    ONE_EXPERT,
    TOO_DEAR,
    Watch,
    losing,
    losing_once,
    plain,
    same,
    structure,
)

SIM: Settings = {**ONE_EXPERT, "privacy": "sim", "c-min": 1, "private-slot": "local"}
MERGE: Settings = {**TOO_DEAR, "privacy": "sim", "c-min": 1, "private-slot": "local"}
Watched = tuple[Run, Watch]
Make = Callable[..., Watched]


@pytest.fixture(scope="module")
def make(settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run a federation of four silos, some of whose replies may be lost."""

    def run(settings: Settings, rounds: int, tamper: Tamper | None = None) -> Watched:
        watch = Watch(tamper) if tamper else Watch()
        folder = tmp_path_factory.mktemp("faults")
        changed = {**settings_in(folder), **settings, "num-server-rounds": rounds}
        return federate(changed, tamper=watch), watch

    return run


@pytest.fixture(scope="module")
def sim(make: Make) -> Watched:
    return make(SIM, BIRTH + 1)


def births(run: Run) -> list[int]:
    return [round_ for round_, kind in structure(run) if kind == "birth"]


def voids(run: Run) -> list[tuple[int, Any]]:
    return [(row["round"], row["numbers"]["phase"]) for row in run.events if row["event"] == "void"]


@pytest.mark.slow
def test_masks_change_nothing_of_births(sim: Watched, make: Make) -> None:
    masked, _ = make({**SIM, "privacy": "secagg"}, BIRTH + 1)
    assert births(masked) == [BIRTH]
    assert plain(masked) == plain(sim[0])
    assert masked.events == sim[0].events


@pytest.mark.parametrize(
    ("kind", "round_"),
    [
        ("train", BIRTH),
        pytest.param("evaluate", BIRTH - 1, marks=pytest.mark.slow),  # counts the dissatisfied
        pytest.param("evaluate", BIRTH, marks=pytest.mark.slow),
    ],
)
def test_a_void_sum_around_a_birth_is_had_again_and_leaves_no_trace(
    kind: str, round_: int, sim: Watched, make: Make
) -> None:
    """Also of the silos' own experts and regret: what they did for the void sum they drop."""
    run, watch = make(SIM, BIRTH + 1, losing_once(kind, round_, [1, 2]))
    assert voids(run) == [(round_, "train" if kind == "train" else "assess")]
    assert len(watch.of(kind, round_)) == 2 * SILOS
    assert plain(run) == plain(sim[0])
    assert run.clients == sim[0].clients
    assert births(run) == [BIRTH]
    assert same(watch.bank(BIRTH + 1), sim[1].bank(BIRTH + 1))


@pytest.mark.parametrize(
    ("silo", "seeds"),
    [pytest.param("silo-00", True, marks=pytest.mark.slow), ("silo-03", False)],
)
def test_a_seed_that_is_lost_leaves_no_crowd(
    silo: str, seeds: bool, sim: Watched, make: Make
) -> None:
    """All but silo-03 ask for the birth, a crowd of three: if one falls out, nothing is born."""
    assert [row["numbers"] for row in sim[0].events if row["event"] == "birth"] == [{"silos": 3.0}]
    run, _ = make({**SIM, "c-min": 3}, BIRTH, losing("train", BIRTH, [int(silo[-1]) + 1]))
    assert run.events[0]["numbers"].get("silo") == silo
    assert births(run) == ([] if seeds else [BIRTH])
    assert run.rounds[BIRTH]["k_active"] == 2 - seeds
    assert sum(run.rounds[BIRTH]["prior"] or ()) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def merging(make: Make) -> Watched:
    return make(MERGE, 6)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "round_"), [("evaluate", 4), ("train", 5)])
def test_a_merge_goes_on_as_if_no_sum_had_been_void(
    kind: str, round_: int, merging: Watched, make: Make
) -> None:
    """The verdict on a candidate and its adoption: a silo that adopted it twice would be off."""
    run, watch = make(MERGE, 6, losing_once(kind, round_, [1, 2]))
    assert voids(run) == [(round_, "train" if kind == "train" else "assess")]
    assert (4, "merge") in structure(run)
    assert watch.facts("train", 5, "call")["adopt"]
    assert plain(run) == plain(merging[0])
    assert run.clients == merging[0].clients
    assert same(watch.bank(6), merging[1].bank(6))
