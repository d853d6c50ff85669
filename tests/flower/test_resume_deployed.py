"""A deployment that goes on: each silo from its own disk, or as a newcomer where it has nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedvemoe_app.deploy.site import Site
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from tests.deploy.on_site import deployed, site_of
from tests.federation import SILOS, Settings, federate
from tests.flower.cut import SHORT, cut_in, experts, interrupted, resumed
from tests.flower.open_world import plain

OWN: Settings = {
    **SHORT,
    "privacy": "secagg",
    "num-server-rounds": 2,
    "local-steps": 1,
    "start": "none",
    "reporting": "full",
    "private-slot": "local",
}


@pytest.fixture(scope="module")
def site_and_settings(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, Settings]:
    folder = tmp_path_factory.mktemp("consortium")
    return site_of(folder / "site", {**settings_in(folder), **OWN})


def on_disks(
    site: Site, disks: Path, without: tuple[int, ...] = ()
) -> Callable[[InProcessGrid], None]:
    """Return what gives every silo of a grid a disk of its own, but some."""

    def prepare(grid: InProcessGrid) -> None:
        deployed(site)(grid)
        for node, context in grid.contexts.items():
            context.node_config["state-path"] = "" if node in without else str(disks / str(node))

    return prepare


@pytest.fixture
def settings(site_and_settings: tuple[Site, Settings], tmp_path: Path) -> Settings:
    return {**site_and_settings[1], "log-dir": str(tmp_path / "runs")}


def test_a_deployment_goes_on_from_its_silos_disks(
    site_and_settings: tuple[Site, Settings], settings: Settings, tmp_path: Path
) -> None:
    site = site_and_settings[0]
    whole = federate({**settings, "run-name": "whole"}, prepare=on_disks(site, tmp_path / "one"))
    prepare = on_disks(site, tmp_path / "two")
    folder = interrupted(settings, cut_in("train", 2), prepare=prepare)
    assert not (folder / "checkpoint" / "silos").exists()
    run = resumed(settings, folder, prepare=prepare)
    assert run.events == []
    assert plain(run) == plain(whole)
    assert experts(run) == experts(whole)
    for node in range(1, SILOS + 1):
        names = {path.name for path in (tmp_path / "two" / str(node)).iterdir()}
        assert {"secagg.ledger", "secagg.lock"} < names
        assert len(names) == 3


def test_a_silo_without_a_state_joins_as_a_newcomer(
    site_and_settings: tuple[Site, Settings], settings: Settings, tmp_path: Path
) -> None:
    site = site_and_settings[0]
    prepare = on_disks(site, tmp_path / "disks", without=(2,))
    folder = interrupted(settings, cut_in("train", 2), prepare=prepare)
    run = resumed(settings, folder, prepare=prepare)
    told = [(row["round"], row["event"], row["numbers"]["silo"]) for row in run.events]
    assert told == [(1, "join", "silo-01")]
    assert [round(sum(row["mass"] or ())) for row in run.rounds] == [SILOS] * 3
    assert len([row for row in run.clients if row["round"] == 2]) == SILOS
