"""Flat tables: every format holds the journal's values, one plain value a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fedvemoe_app.cli.main import app
from fedvemoe_app.report.tables import flat
from tests.report.synthetic import make_run

READERS: dict[str, Any] = {
    "csv": pd.read_csv,
    "parquet": pd.read_parquet,
    "jsonl": lambda path: pd.read_json(path, lines=True),
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["table", *map(str, arguments)])


@pytest.mark.parametrize("kind", READERS)
def test_every_format_holds_every_row(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path, silos=3, rounds=3, lifecycle=True, counted=True)
    result = call(run.folder, "--format", kind)
    assert result.exit_code == 0, result.output
    tables = {path.stem: READERS[kind](path) for path in sorted((run.folder / "tables").iterdir())}
    assert {name: len(table) for name, table in tables.items()} == {
        "clients": len(run.clients),
        "events": len(run.events),
        "rounds": 4,
        "tasks": len(run.tasks),
    }
    rounds = tables["rounds"]
    assert rounds["ppl"].tolist() == pytest.approx([row["ppl"] for row in run.rounds])
    assert rounds["prior_02"].tolist() == pytest.approx(
        [(row["prior"] or ())[2] for row in run.rounds]
    )
    assert rounds["seconds_train"].tolist() == [2.5] * 4
    assert tables["clients"]["client"].tolist() == [row["client"] for row in run.clients]
    assert json.loads(tables["events"]["numbers"][0]) == {"silo": "silo-00"}


def test_a_file_without_rows_has_no_table(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, full=False)
    assert call(run.folder, "--output", tmp_path / "out").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["rounds.csv", "tasks.csv"]


def test_lists_of_names_stay_one_column() -> None:
    assert flat({"slots": [3, 4], "tasks": ["a", "b"], "mass": [0.5], "ppl": None}) == {
        "slots": "3,4",
        "tasks": "a,b",
        "mass_00": 0.5,
    }


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    result = call(make_run(tmp_path, rounds=1).folder, "--format", "xls")
    assert result.exit_code == 1
    assert '"xls" is not known: choose from csv, parquet, jsonl' in result.output
