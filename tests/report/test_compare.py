"""Runs side by side: what is grouped, paired and refused, through the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedvemoe_app.cli.main import app
from fedvemoe_app.report.comparable import collect
from fedvemoe_app.report.compare import METRICS, compare
from fedvemoe_app.report.plot_compare import draw
from tests.report.synthetic import make_run
from tests.report.test_plots import assert_readable, flat

SEEDS = (1, 2, 3)
GAINS = {"local": 0.0, "fedavg": -0.1, "fedvemoe": 0.2}
PPL = METRICS[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies by three seeds; each silo gains the same against training alone."""
    folder = tmp_path_factory.mktemp("runs")
    for strategy, gain in GAINS.items():
        for seed in SEEDS:
            few: dict[str, Any] = {"silos": 3, "rounds": 2, "baseline": False}
            name = f"{strategy}-{seed}"
            make_run(folder, name=name, strategy=strategy, seed=seed, gain=gain, **few)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def refused(result: Result, *named: str) -> None:
    assert result.exit_code == 1
    assert result.output.count("error:") == 1
    for name in named:
        assert name in result.output


def lines(output: str, start: str) -> list[list[str]]:
    """Return the cells of the table lines that begin with ``start``."""
    rows = (line for line in output.splitlines() if line.startswith(f"| {start} "))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_means_and_spread_over_seeds(runs: Path) -> None:
    ppl = [run.rounds[-1]["ppl"] or 0.0 for run in collect([runs / f"fedavg-{s}" for s in SEEDS])]
    result = call(runs)
    assert result.exit_code == 0, result.output
    name, count, shown = lines(result.output, "fedavg")[0][:3]
    assert (name, count) == ("fedavg", "3")
    assert shown == f"{fmean(ppl):.3f} \N{PLUS-MINUS SIGN} {stdev(ppl):.3f}"


def test_the_best_group_comes_first_and_tasks_follow(runs: Path) -> None:
    assert list(compare(collect([runs])).groups) == ["fedvemoe", "local", "fedavg"]
    assert len(lines(call(runs).output, "task000_translation")[0]) == 1 + 3


def test_negative_transfer_is_counted_against_the_local_run_of_the_seed(runs: Path) -> None:
    found = compare(collect([runs]))
    for name, share in (("fedavg", 100.0), ("fedvemoe", 0.0)):
        for entry in found.groups[name]:
            assert entry.values["harm_mean"] == pytest.approx(-GAINS[name])
            assert entry.values["harm_worst"] == pytest.approx(-GAINS[name])
            assert entry.values["harm_share"] == share
    assert all(entry.values["harm_mean"] is None for entry in found.groups["local"])


def test_the_early_stopped_baseline_is_taken_where_the_local_run_has_one(tmp_path: Path) -> None:
    local = make_run(tmp_path, name="local", strategy="local", silos=3, baseline=False)
    made = make_run(tmp_path, name="made", silos=3, baseline=False)
    clients = {
        name: {"ppl": 9.0, "ppl_early_stopped": (row["ppl"] or 1.0) / math.e}
        for name, row in made.last_clients.items()
    }
    (local.folder / "local_baselines.json").write_text(json.dumps({"clients": clients}))
    (entry,) = compare(collect([tmp_path])).groups["fedvemoe"]
    assert entry.values["harm_mean"] == pytest.approx(1.0)


def test_without_a_local_run_the_journal_is_believed(tmp_path: Path) -> None:
    run = make_run(tmp_path, name="one", silos=5)
    make_run(tmp_path, name="two", silos=5, seed=2)
    entry = compare(collect([tmp_path])).groups["fedvemoe"][0]
    values = [row["negative_transfer"] or 0.0 for row in run.last_clients.values()]
    assert entry.values["harm_mean"] == pytest.approx(fmean(values))


def test_differences_are_paired_by_seed(runs: Path) -> None:
    found = compare(collect([runs]), "local")
    assert found.differences("fedvemoe", PPL) == pytest.approx([-0.2] * 3)
    result = call(runs / "local-1", runs / "local-2", runs / "fedavg-2", runs / "fedavg-3")
    shown = lines(result.output, "fedavg")[1]
    assert shown[1] == "+0.100 (0/1)"


def test_another_reference_may_be_named_but_not_a_strange_one(runs: Path) -> None:
    assert "## Against fedavg" in call(runs, "--reference", "fedavg").output
    refused(call(runs, "--reference", "fedsgd"), '"fedsgd"', "fedvemoe, local, fedavg")


def test_runs_of_one_strategy_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for k in (4, 8):
        make_run(tmp_path, name=f"k{k}", silos=3, gain=0.01 * k, settings={"k-max": k})
    assert list(compare(collect([tmp_path])).groups) == ["fedvemoe k-max=8", "fedvemoe k-max=4"]


DIFFERENT: dict[str, dict[str, Any]] = {
    "the number of silos": {"silos": 4},
    "the base model": {"facts": {"base": "b"}},
    "the task bank": {"facts": {"bank": "b"}},
    "seq-len": {"settings": {"seq-len": 2048}},
    "eval-examples": {"settings": {"eval-examples": 7}},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_not_comparable_is_refused_but_may_be_forced(tmp_path: Path, what: str) -> None:
    first: dict[str, Any] = {
        "silos": 3,
        "rounds": 1,
        "facts": {"base": "a", "bank": "a"},
        "settings": {"seq-len": 128, "eval-examples": 100},
    }
    make_run(tmp_path, name="one", **first)
    make_run(tmp_path, name="two", **{**first, **DIFFERENT[what]})
    refused(call(tmp_path), f"{what} differs", "one", "two", "--force")
    assert call(tmp_path, "--force").exit_code == 0


def test_another_seed_may_have_another_split_of_the_bank(tmp_path: Path) -> None:
    for seed in (1, 2):
        facts = {"bank": f"of seed {seed}"}
        make_run(tmp_path, name=f"run{seed}", silos=3, rounds=1, seed=seed, facts=facts)
    assert call(tmp_path).exit_code == 0


def test_no_run_or_one_run_is_refused(tmp_path: Path) -> None:
    refused(call(tmp_path), str(tmp_path), "config.json")
    make_run(tmp_path, rounds=1)
    refused(call(tmp_path), "two or more runs", "not 1")


def test_files_hold_what_is_shown(runs: Path, tmp_path: Path) -> None:
    result = call(runs, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert text in result.output
    with (tmp_path / "out" / "compare.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    (row,) = (row for row in rows if row["run"] == "fedavg-2")
    assert float(row["harm_mean"]) == pytest.approx(0.1)
    tasks = (tmp_path / "out" / "compare_tasks.csv").read_text().splitlines()
    assert len(tasks) == 1 + 9 * 3
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000


def test_a_folder_that_cannot_be_written_is_named(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(call(runs, "--output", tmp_path / "file"), "file cannot be written")


def test_the_picture_is_readable(runs: Path) -> None:
    figure = draw(compare(collect([runs])))
    assert_readable(figure)
    assert len(figure.axes) == len(METRICS)
    assert "the reference, local" in flat(figure)


def test_names_cannot_break_the_table(tmp_path: Path) -> None:
    make_run(tmp_path, name="one", silos=3, strategy="flwr:<b>|x")
    make_run(tmp_path, name="two", silos=3)
    (row,) = [
        line for line in call(tmp_path).output.splitlines() if "flwr" in line and "|" in line
    ][:1]
    assert "&lt;b>\\|x" in row
