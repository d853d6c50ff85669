"""Silos with data of their own, and a server without any: in one process, through real messages.

Removed by hand, each turned a test here red: the silo's own data path, base and device; the row
of other tasks; the server's list instead of an assignment.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.tasklist import OTHERS
from fedvemoe_app.deploy.site import Site
from fedvemoe_app.errors import DataError, RunError, SettingError
from fedvemoe_app.report.journal import Run
from fedvemoe_app.silo import Silo, open_own_silo
from tests.deploy.on_site import deployed, listed, simulated, site_of
from tests.federation import SILOS, Settings, federate, write_tasks

SHORT: Settings = {
    "privacy": "secagg",
    "num-server-rounds": 1,
    "start": "none",
    "eval-examples": 3,
    "local-steps": 2,
    "reporting": "full",
}


@pytest.fixture(scope="module")
def site_and_settings(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, Settings]:
    folder = tmp_path_factory.mktemp("consortium")
    return site_of(folder / "site", {**settings_in(folder), **SHORT})


@pytest.fixture(scope="module")
def site(site_and_settings: tuple[Site, Settings]) -> Site:
    return site_and_settings[0]


@pytest.fixture(scope="module")
def run(site_and_settings: tuple[Site, Settings]) -> Run:
    site, settings = site_and_settings
    return federate(settings, prepare=deployed(site))


@pytest.fixture
def settings(site_and_settings: tuple[Site, Settings], tmp_path: Path) -> Settings:
    return {**site_and_settings[1], "log-dir": str(tmp_path)}


def figures(run: Run) -> list[float]:
    """Return the figures of a run that a rounding of its sums moves a little."""
    rounds = [[row["ppl"], row["loss_train"] or 0.0, *(row["mass"] or ())] for row in run.rounds]
    return [float(x or 0.0) for row in rounds for x in row]


def test_deployed_silos_make_the_run_that_a_simulation_makes(
    run: Run, site: Site, settings: Settings, tmp_path: Path
) -> None:
    same = federate(simulated(site, settings, tmp_path / "simulated"))
    assert run.events == []
    assert figures(run) == pytest.approx(figures(same), rel=1e-3, abs=1e-3)
    for mine, its in zip(run.clients, same.clients, strict=True):
        assert (mine["client"], mine["tasks"]) == (its["client"], its["tasks"])
        assert mine["ppl"] == pytest.approx(its["ppl"], rel=1e-3)


def test_the_server_reads_no_data(settings: Settings, site: Site) -> None:
    opened: list[object] = []

    def no_bank(*what: object) -> None:
        opened.append(what)
        raise AssertionError

    with (
        patch("fedvemoe_app.flower.server.agreed.bank_of", no_bank),
        patch("fedvemoe_app.flower.server.agreed.assignment_of", no_bank),
    ):
        held = federate(settings, prepare=deployed(site))
    assert opened == []
    assert held.manifest["bank"] is None
    assert not Path(str(held.config["dataset-name"])).exists()


def test_listed_tasks_have_a_row_each_and_the_row_of_others_is_empty(run: Run, site: Site) -> None:
    last = {row["task"]: row for row in run.tasks if row["round"] == 1}
    assert list(last) == [*listed(site), OTHERS]
    assert last[OTHERS]["tokens"] == 0
    assert {row["category"] for row in last.values()} == {
        *("translation", "reasoning", "code", "rewriting", "")
    }


@pytest.mark.parametrize("known", [0, 3])
def test_tasks_that_are_not_on_the_list_share_a_row(
    known: int, run: Run, settings: Settings, site: Site, tmp_path: Path
) -> None:
    names, whole = listed(site)[:known], [row for row in run.tasks if row["round"] == 0]
    (tmp_path / "some.txt").write_text("".join(f"{name}\n" for name in names))
    chosen = {**settings, "tasks-file": str(tmp_path / "some.txt") if known else ""}
    short = federate(chosen, prepare=deployed(site))
    rows = {row["task"]: row for row in short.tasks if row["round"] == 0}
    assert list(rows) == [*names, OTHERS]
    rest = [row for row in whole if row["task"] not in names]
    assert rows[OTHERS]["examples"] == sum(row["examples"] for row in rest)
    assert rows[OTHERS]["tokens"] == sum(row["tokens"] for row in rest)
    assert short.rounds[0]["ppl"] == pytest.approx(run.rounds[0]["ppl"], rel=1e-5)


def test_a_server_cannot_point_a_silo_at_other_data(
    run: Run, settings: Settings, site: Site, small_base: Path, tmp_path: Path
) -> None:
    other = write_tasks(tmp_path / "other")
    (other / "code_0.json").unlink()
    (tmp_path / "map.json").write_text("{}")
    shutil.copytree(small_base, tmp_path / "base")  # the server's own copy: the same fingerprint
    pointing = {
        **settings,
        "dataset-name": str(other),
        "client-task-mode": "explicit",
        "assignment-file": str(tmp_path / "map.json"),
        "keyword-file": str(tmp_path / "none.toml"),
        "model-name": str(tmp_path / "base"),
        "device": "cuda:7",
    }
    opened: list[RunConfig] = []

    def watched(config: RunConfig, name: str, category: str) -> Silo:
        opened.append(config)
        return open_own_silo(config, name, category)

    with patch("fedvemoe_app.flower.silo.phases.open_own_silo", watched):
        misled = federate(pointing, prepare=deployed(site))
    told = " ".join(str(value) for config in opened for value in config.to_flat().values())
    assert str(site.folder / "data" / "silo-03") in told
    assert {config.model.model_name for config in opened} == {str(small_base)}
    for path in ("other", "map.json", "none.toml", "base", "cuda:7"):
        assert str(tmp_path / path) not in told
        assert path not in told.split()
    assert misled.events == []
    assert misled.tasks == run.tasks
    assert [row["tasks"] for row in misled.clients] == [row["tasks"] for row in run.clients]


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no data": ({"data-path": ""}, "data-path is missing in the node config"),
    "data that is not there": ({"data-path": "/nowhere"}, "data-path = /nowhere of this silo"),
    "data somewhere": ({"data-path": "."}, "absolute path"),
    "no base of its own": ({"model-path": ""}, "model-path is missing"),
    "a base that is not there": ({"model-path": "/nowhere"}, "model-path = /nowhere of this silo"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_deployed_silo_without_its_own_refuses(what: str, settings: Settings, site: Site) -> None:
    changes, reason = REFUSED[what]
    wrong = {key.replace("-", "_"): value for key, value in changes.items()}
    with pytest.raises(RunError, match=f"hello: 0 silos answered.*{reason}"):
        federate(settings, prepare=deployed(site, **wrong))


def test_the_embedded_base_needs_no_path(settings: Settings, site: Site, small_base: Path) -> None:
    def prepare(grid: object) -> None:
        deployed(site)(grid)  # type: ignore[arg-type]
        for context in grid.contexts.values():  # type: ignore[attr-defined]
            del context.node_config["model-path"]

    with (
        patch("fedvemoe_app.silo.locate", lambda name: str(small_base)),
        patch("fedvemoe_app.flower.server.run.locate", lambda name, building: str(small_base)),
    ):
        run = federate({**settings, "model-name": "builtin:tiny"}, prepare=prepare)
    assert run.events == []


def test_the_category_comes_from_the_node_config(settings: Settings, site: Site) -> None:
    run = federate(settings, prepare=deployed(site, category="own words"))
    assert {row["category"] for row in run.clients} == {"own words"}


WRONG = {
    "roster": ("/nowhere/roster.json", SettingError),
    "consortium-key": ("00" * 32, SettingError),
    "tasks-file": ("/nowhere/tasks.txt", DataError),
}


@pytest.mark.parametrize("key", WRONG)
def test_the_server_names_a_wrong_file_before_it_asks_anybody(
    key: str, settings: Settings, site: Site
) -> None:
    value, kind = WRONG[key]
    with pytest.raises(kind, match=key if key != "consortium-key" else "consortium key"):
        federate({**settings, key: value}, prepare=deployed(site))
    assert not (Path(str(settings["log-dir"])) / "run").exists()


def test_a_silo_that_reports_sums_only_tells_no_task(settings: Settings, site: Site) -> None:
    run = federate({**settings, "reporting": "full"}, prepare=deployed(site, reporting="aggregate"))
    assert run.clients == []
    assert len(run.tasks) == 2 * (len(listed(site)) + 1)
    assert sum(run.rounds[1]["mass"] or ()) == pytest.approx(SILOS)
