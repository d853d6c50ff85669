"""The lifecycle where silos fall out: what was planned happens whole or not at all.

Removed by hand, each turned a test here red: that counts are forgotten after a birth; the crowd
that a birth needs once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedvemoe_app.flower.inprocess import Tamper
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate
from tests.flower.open_world import (
    BIRTH,
    ONE_EXPERT,
    TOO_MANY,
    Watch,
    losing,
    plain,
    same,
    structure,
)

SIM: Settings = {**ONE_EXPERT, "privacy": "sim", "c-min": 1}
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


def test_masks_change_nothing_of_births(sim: Watched, make: Make) -> None:
    masked, _ = make({**SIM, "privacy": "secagg"}, BIRTH + 1)
    assert births(masked) == [BIRTH]
    assert plain(masked) == plain(sim[0])
    assert masked.events == sim[0].events


def test_a_void_training_round_bears_nothing_and_a_later_one_does(sim: Watched, make: Make) -> None:
    run, watch = make(SIM, BIRTH + 4, losing("train", BIRTH, [1, 2]))
    assert voids(run) == [(BIRTH, "train")]
    assert plain(run)[:BIRTH] == plain(sim[0])[:BIRTH]
    assert same(watch.bank(BIRTH), watch.bank(BIRTH - 1))
    assert run.rounds[BIRTH]["k_active"] == 1
    (later,) = births(run)
    assert later > BIRTH + 1  # after the cool-down
    assert run.rounds[-1]["k_active"] == 2


def test_a_birth_that_nobody_assessed_waits_for_the_count(sim: Watched, make: Make) -> None:
    """Silos may have moved to the newborn: the counts of their old expert hold no longer."""
    run, watch = make(SIM, BIRTH + 3, losing("evaluate", BIRTH, [1, 2]))
    assert voids(run) == [(BIRTH, "assess")]
    assert births(run) == [BIRTH]
    assert same(watch.bank(BIRTH), sim[1].bank(BIRTH))
    row = run.rounds[BIRTH]
    assert (row["k_active"], row["mass"]) == (2, None)
    assert sum(row["prior"] or ()) == pytest.approx(1.0)
    assert watch.facts("train", BIRTH + 1, "order")["open"] == [False, False]
    assert same(watch.bank(BIRTH + 1), watch.bank(BIRTH))
    assert any(watch.facts("train", BIRTH + 2, "order")["open"])
    assert not same(watch.bank(BIRTH + 2), watch.bank(BIRTH + 1))
    assert sum(run.rounds[BIRTH + 1]["mass"] or ()) == pytest.approx(SILOS)


@pytest.mark.parametrize(("silo", "seeds"), [("silo-00", True), ("silo-01", False)])
def test_a_seed_that_is_lost_leaves_no_crowd(
    silo: str, seeds: bool, sim: Watched, make: Make
) -> None:
    """silo-00 and silo-02 ask for the birth: if one of them falls out, nothing is born."""
    assert [row["numbers"] for row in sim[0].events if row["event"] == "birth"] == [{"silos": 2.0}]
    run, _ = make(SIM, BIRTH, losing("train", BIRTH, [int(silo[-1]) + 1]))
    assert run.events[0]["numbers"].get("silo") == silo
    assert births(run) == ([] if seeds else [BIRTH])
    assert run.rounds[BIRTH]["k_active"] == 2 - seeds
    assert sum(run.rounds[BIRTH]["prior"] or ()) == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "merges"), [("evaluate", False), ("train", True)])
def test_a_merge_goes_on_whole_or_not_at_all(kind: str, merges: bool, make: Make) -> None:
    """A void assessment leaves the candidate without a verdict; a void training after the verdict
    closes what was merged all the same: the merged expert stands, and the bank moves on.
    """
    round_ = 4 + merges
    settings = {**TOO_MANY, "privacy": "sim", "c-min": 1}
    run, watch = make(settings, 6, losing(kind, round_, [1, 2]))
    assert voids(run) == [(round_, "train" if merges else "assess")]
    assert ("merge" in [kind for at, kind in structure(run) if at == 4]) == merges
    assert run.rounds[5]["k_active"] == 4 - merges
    for row in run.rounds:
        assert sum(row["prior"] or ()) == pytest.approx(1.0)
    assert sum(run.rounds[6]["mass"] or ()) == pytest.approx(SILOS)
    (lost,) = {row["round"] for row in run.events if row["event"] == "dropout"}
    assert lost == round_
    assert watch.facts("train", 5, "call")["adopt"] == merges
