"""The paper figure: every panel full, every label on the canvas, readable in grey, fonts inside."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from typer.testing import CliRunner

from fedvemoe_app.cli.main import app
from fedvemoe_app.report import plot_paper
from fedvemoe_app.report.lifecycle import Life, lives
from fedvemoe_app.report.paper_curves import PHASES
from fedvemoe_app.report.paper_responsibilities import selected
from fedvemoe_app.report.plots import PICTURES
from tests.report.synthetic import make_run
from tests.report.test_plots import assert_readable, labels

CASES: dict[str, dict[str, Any]] = {
    "twelve silos, a lifecycle": {"silos": 12, "rounds": 10, "lifecycle": True},
    "thirty silos, all slots, forty rounds": {"silos": 30, "rounds": 40, "slots": 12},
    "one slot, two rounds": {"silos": 4, "rounds": 2, "slots": 1, "baseline": False},
    "one row": {"rounds": 0},
    "counted": {"silos": 30, "full": False, "counted": True, "lifecycle": True},
    "counted, one row": {"full": False, "counted": True, "rounds": 0},
    "aggregate": {"full": False, "baseline": False},
}


def titles(figure: Figure) -> list[str]:
    text = labels(figure).splitlines()
    return [line[4:] for line in text if line.startswith("(")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_empty_panel_and_no_clipped_label(tmp_path: Path, case: dict[str, Any]) -> None:
    assert_readable(plot_paper.draw(make_run(tmp_path, **case)))


def test_the_panels_follow_what_the_journal_knows(tmp_path: Path) -> None:
    last = ["Perplexity", "Negative transfer", "Communication", "Time by phase"]
    lived = "Lives of the experts (thickness: share of the data)"
    full = plot_paper.draw(make_run(tmp_path, name="full"))
    assert titles(full) == ["Responsibilities", lived, *last]
    counted = plot_paper.draw(make_run(tmp_path, name="counted", full=False, counted=True))
    assert titles(counted) == ["Share of the data", lived, *last]
    sums = plot_paper.draw(make_run(tmp_path, name="sums", full=False, baseline=False))
    assert titles(sums) == ["Share of the data", lived, "Perplexity", *last[2:]]
    assert "silo-00" not in labels(counted)


def test_silos_in_one_bucket_stand_beside_zero_and_do_not_fill_the_panel(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=False, counted=True, rounds=1)
    counts: Any = [0.0] * 40
    counts[19] = 4.0
    rounds: Any = [{**row, "transfer_histogram": counts} for row in run.rounds]
    panels = plot_paper.draw(replace(run, rounds=rounds)).axes
    (panel,) = [axes for axes in panels if axes.get_xlabel().startswith("negative transfer")]
    assert panel.get_xlim() == (-0.25, 0.25)
    assert [bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle)] == [4.0]


def test_a_journal_without_a_round_says_so(tmp_path: Path) -> None:
    run = replace(make_run(tmp_path), rounds=[], clients=[])
    assert "no round yet" in labels(plot_paper.draw(run))


def test_lives_end_with_prune_and_begin_with_birth(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=9, lifecycle=True)
    assert Life(3, 3, 9) in lives(run)
    assert Life(1, 0, 5) in lives(run)


def test_a_slot_that_is_born_again_has_two_lives(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=4)
    rounds: Any = [{**row, "prior": [1.0, float(row["round"] != 2)]} for row in run.rounds]
    assert lives(replace(run, rounds=rounds)) == [Life(0, 0, 4), Life(1, 0, 1), Life(1, 3, 4)]


def test_every_kind_of_event_is_in_the_legend(tmp_path: Path) -> None:
    shown = labels(plot_paper.draw(make_run(tmp_path, rounds=9, lifecycle=True))).splitlines()
    told = {"birth", "accept", "close", "merge", "prune", "full", "sketched"}
    assert told | {"silos missing"} <= set(shown)


def test_silos_that_come_and_go_are_no_events_of_experts(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=4)
    kinds = ("leave", "join", "dropout", "void", "bad-report")
    events: Any = [
        {"round": number % 5, "event": kind, "slots": [], "why": "", "numbers": {}}
        for number, kind in enumerate(kinds * 2)
    ]
    figure = plot_paper.draw(replace(run, events=events))
    (lived,) = (axes for axes in figure.axes if axes.get_ylabel() == "expert")
    marks = {line.get_label(): list(line.get_xdata()) for line in lived.lines}
    assert marks == {"silos missing": [0, 2, 3, 4], "silos joined": [1]}


def test_the_first_and_the_last_round_are_shown() -> None:
    assert selected([0, 2, 4, 6, 8, 10, 12]) == [0, 4, 8, 12]
    assert selected([3]) == [3]
    assert selected([0, 1]) == [0, 1]


def test_responsibilities_are_drawn_where_they_belong(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=5, rounds=6)
    figure = plot_paper.draw(run)
    shown = [axes.get_title(loc="center") for axes in figure.axes[:4]]
    assert shown == ["round 0", "round 2", "round 4", "round 6"]
    silos = sorted(run.last_clients.values(), key=lambda row: (row["category"], row["client"]))
    drawn = figure.axes[3].images[0].get_array()
    assert drawn is not None
    np.testing.assert_allclose(drawn, [row["responsibilities"] for row in silos])


def test_neighbouring_phases_differ_in_grey() -> None:
    grey = [float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) for colour in PHASES]
    assert all(abs(one - other) > 0.1 for one, other in pairwise(grey))


def test_the_command_writes_vectors_with_fonts_and_pixels(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    done = CliRunner().invoke(app, ["figure", str(run.folder), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    pdf, svg, png = (tmp_path / "out" / f"paper_figure.{kind}" for kind in ("pdf", "svg", "png"))
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert "<text" not in svg.read_text()
    assert png.stat().st_size > 10_000
    assert str(pdf) in done.output.replace("\n", "")


def test_the_command_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        arguments = ["figure", str(run.folder), "--output", str(folder), "--format", "pdf,svg"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    for name in ("paper_figure.pdf", "paper_figure.svg"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_every_picture_can_be_had_as_a_vector(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=3, rounds=1)
    words = ["figure", str(run.folder), "--picture", "all", "--format", "svg"]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert drawn == {f"{name}.svg" for name in PICTURES}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format", "gif"], '--format "gif" is not known: choose from pdf, svg, png'),
        (["--format", ","], "--format names nothing: choose from pdf, svg, png"),
        (["--picture", "paper"], '--picture "paper" is not known: choose from expert_utilization'),
    ],
)
def test_an_unknown_format_or_picture_is_named(
    tmp_path: Path, words: list[str], reason: str
) -> None:
    run = make_run(tmp_path, rounds=1)
    done = CliRunner().invoke(app, ["figure", str(run.folder), *words])
    assert done.exit_code == 1
    assert reason in " ".join(done.output.split())
