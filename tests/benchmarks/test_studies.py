"""Studies: their runs are made as written, a failed one is named, and the table tells the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import habits, less_work, one_run, outcomes, strategies, studies
from benchmarks.studies import STUDIES, Away, Study
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.data.holdings import tasks_of
from fedvemoe_app.em.lifecycle.rules import Kind
from fedvemoe_app.flower.server.run import check
from fedvemoe_app.report.journal import read_run
from fedvemoe_app.strategies.registry import settle
from tests.federation import SILOS, Settings
from tests.report.synthetic import make_run

TINY: Settings = {"num-server-rounds": 2, "local-steps": 1, "eval-examples": 1, "c-min": 1}
TINY |= {"generate-examples": 0, "probe-tokens": 20, "eval-every": 1}


@pytest.mark.parametrize("module", [strategies, less_work])
def test_a_label_that_there_is_not_is_named(module: ModuleType) -> None:
    app = typer.Typer()
    app.command()(module.main)
    words = ["size"] if module is strategies else []
    found = CliRunner().invoke(app, [*words, "--only", "k-init 2"])
    assert found.exit_code == 2
    assert "k-init 2: choose of" in found.output


@pytest.fixture
def study(
    monkeypatch: pytest.MonkeyPatch, settings: Callable[..., Settings], tmp_path: Path
) -> Path:
    """A study of two variants, one of which has a setting that there is not."""
    place = {k: v for k, v in settings().items() if k not in ("log-dir", "run-name")}
    variants: dict[str, studies.Settings] = {"Plain one": {}, "broken": {"no-such-setting": 1}}
    away = Away(("silo-03",), first=2)
    planned = Study(SILOS, {**place, **TINY}, variants, away=away, seeds=1)
    monkeypatch.setattr(strategies, "STUDIES", {"small": planned})
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path / "studies"


def jobs(study: Path) -> list[strategies.Job]:
    return list(strategies._jobs("small", strategies.STUDIES["small"], study, 0, {}))


def make(job: strategies.Job) -> None:
    """Make a run by its own words, in this process."""
    app = typer.Typer()
    app.command()(one_run.main)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvemoe_app.flower.server.run.draw_all", lambda run: [])
        done = CliRunner().invoke(app, job.command[3:])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(job.folder.name)


def test_a_study_makes_its_runs_and_names_the_one_that_failed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, broken = jobs(study)
    assert plain.folder == study / "small" / "plain-one-0"
    make(plain)
    assert (plain.done, broken.done) == (True, False)
    console = Console(record=True, width=120)
    monkeypatch.setattr(strategies, "Console", lambda **_: console)
    strategies.main(["small"], output=study, jobs=1)
    said = console.export_text()
    assert "1/1 small, broken, seed 0: FAILED" in said  # and what is done is not made again
    assert "no-such-setting" in broken.folder.with_suffix(".log").read_text()
    run = read_run(plain.folder)
    (row,) = [line.split() for line in said.splitlines() if line.startswith(" Plain one")]
    assert row[2] == "1"
    assert row[3] == f"{run.rounds[-1]['ppl']:.3f}"
    told = [(row["round"], row["event"]) for row in run.events if row["event"] != "dropout"]
    assert told == [(2, "join")]
    assert {row["numbers"]["silo"] for row in run.events if row["round"]} == {"silo-03"}


def test_a_silo_that_will_leave_is_there_at_the_start(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = strategies.STUDIES["small"]
    leaves = replace(planned, away=Away(("silo-03",), last=2))
    monkeypatch.setattr(strategies, "STUDIES", {"small": leaves})
    plain, _ = jobs(study)
    make(plain)
    run = read_run(plain.folder)
    assert [(row["round"], row["event"]) for row in run.events] == [(2, "dropout"), (2, "leave")]
    assert [round(sum(row["mass"])) for row in run.rounds] == [SILOS, SILOS, SILOS - 1]


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="moon is none of embedded"):
        strategies.main(["moon"])
    with pytest.raises(typer.BadParameter, match="tasks-a needs --bank and --base"):
        strategies.main(["tasks-a"])


@pytest.mark.parametrize("name", [name for name, one in STUDIES.items() if not one.real_tasks])
def test_every_variant_of_a_study_has_settings_that_hold(name: str) -> None:
    one = STUDIES[name]
    for settings in one.variants.values():
        check(
            settle(RunConfig.from_flat({**studies.COMMON, **one.settings, **settings})), one.silos
        )
    assert set(one.away.silos) <= {silo_name(index) for index in range(one.silos)}


def test_who_is_away_when() -> None:
    away = Away(("a",), first=3, last=5)
    assert [away.gone("a", round_) for round_ in range(2, 7)] == [True, False, False, True, True]
    assert not any(away.gone("b", round_) for round_ in range(7))
    assert Away(**json.loads(one_run.words(away))).gone("a", 5)


def test_every_silo_has_a_habit_of_its_own(tmp_path: Path) -> None:
    silos = 12
    settings = RunConfig.from_flat(habits.write(tmp_path, silos, seed=0)).data
    endings = []
    for index in range(silos):
        answers = {
            task.name: {tuple(one.outputs[0].split()[-2:]) for one in task.splits["train"]}
            for task in tasks_of(settings, 0, silos, index)
        }
        assert all(name.startswith(f"{silo_name(index)}_") for name in answers)
        (habit,) = [ends for ends in answers.values() if len(ends) == 1]
        endings += habit
    assert len(set(endings)) == silos


def test_an_outcome_knows_the_last_change_of_the_bank(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=9, lifecycle=True)
    found = outcomes.outcome(run, {})
    kinds = {"birth", "accept", "close", "merge", "prune"}
    assert kinds <= {row["event"] for row in run.events}
    assert found.last_event == max(row["round"] for row in run.events if row["event"] in kinds)
    assert found.experts == run.rounds[-1]["k_active"]
    assert found.harmed is None


def test_the_kinds_of_change_are_those_of_the_lifecycle() -> None:
    """Being out of slots changes nothing."""
    assert {*outcomes.STRUCTURE, "full"} == set(get_args(Kind))
