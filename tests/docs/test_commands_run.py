"""The commands of three pages do what the pages say, one after the other, for real.

The settings are made small, and the base knows little more than the words: what is tested is
that a reader who types these lines gets to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner

from fedvemoe_app.cli.main import app
from fedvemoe_app.report.journal import Run
from tests.docs.pages import DOCS, Line, command_lines
from tests.federation import Settings, write_tasks

LEFT = {
    "quickstart.md": ["runs/first/report.html", "runs/first/experts/slot_00"],
    "tutorial.md": [
        "runs/mine/report.html",
        "runs/alone/local_baselines.json",
        "comparison/compare.md",
        "paper/paper_figure.pdf",
        "runs/mine/tables/rounds.csv",
        "adapters/mixture.json",
    ],
    "adapters.md": ["adapters/slot_01/README.md", "adapters-and-merged/merged_slot_01/config.json"],
}


def call(line: Line, small: Settings) -> str:
    words = line.words[1:]
    if words[0] == "run":  # what the page says wins over what makes it small
        given = {word.partition("=")[0] for word in words}
        words += [f"{key}={value}" for key, value in small.items() if key not in given]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def follow(page: str, small: Settings) -> None:
    """Run the page's lines and look for what they leave."""
    lines = [line for line in command_lines(DOCS / page) if line.run]
    assert len(lines) >= 3
    for line in lines:
        call(line, small)
    for path in LEFT[page]:
        assert Path(path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["quickstart.md", "tutorial.md"])
def test_a_page_can_be_followed(
    page: str,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")
    small = settings(dataset_name=str(tmp_path / "tasks"))
    for key in ("log-dir", "run-name"):
        del small[key]
    follow(page, small)


def test_experts_are_carried_away_as_their_page_says(
    ended_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copytree(ended_run.folder, "runs/demo")
    write_tasks(tmp_path / "new")
    next(Path("new").iterdir()).rename("new/dates.json")
    Path("questions.txt").write_text("Date: January, day 26\nDate: March, day 2\n")
    follow("adapters.md", {})
