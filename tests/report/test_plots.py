from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import plot_experts, plot_transfer, plot_worst
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.plots import PICTURES, draw_all
from fedvemoe_app.report.style import SLOTS
from tests.report.synthetic import make_run

CASES: dict[str, dict[str, Any]] = {
    "three silos": {"silos": 3},
    "many silos, all slots": {"silos": 100, "rounds": 3, "slots": 12},
    "one slot, one row": {"silos": 4, "rounds": 0, "slots": 1, "baseline": False},
    "no baseline": {"silos": 5, "baseline": False},
    "aggregate": {"full": False, "baseline": False},
    "aggregate, one row": {"full": False, "baseline": False, "rounds": 0},
    "counted": {"silos": 30, "full": False, "counted": True},
}


def assert_readable(figure: Figure) -> None:
    """Every panel has data, and all that is drawn, labels included, lies on the canvas."""
    figure.canvas.draw()
    for axes in figure.axes:
        assert axes.has_data(), f"empty panel: {axes.get_title()}"
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01


def labels(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def flat(figure: Figure) -> str:
    return " ".join(labels(figure).split())


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_empty_panel_and_no_clipped_label(tmp_path: Path, draw: Any, case: Any) -> None:
    assert_readable(draw(make_run(tmp_path, **case)))


def test_all_pictures_are_written_and_not_trivial(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    paths = draw_all(run)
    assert [path.name for path in paths] == [f"{name}.png" for name in PICTURES]
    for path in paths:
        assert path.parent == run.folder / "plots"
        assert path.stat().st_size > 10_000
        assert imread(path).shape[1] > 1000


def test_a_plots_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    (run.folder / "plots").write_text("")
    with pytest.raises(RunError, match="plots"):
        draw_all(run)


def test_drawing_changes_no_setting_and_loads_no_pyplot(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    run = make_run(tmp_path)
    plot_worst.draw(run)
    assert dict(mpl.rcParams) == before
    code = "import sys, fedvemoe_app.report.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_silos_of_a_category_stand_together(tmp_path: Path) -> None:
    figure = plot_experts.draw(make_run(tmp_path, silos=10))
    heat = figure.axes[0]
    names = [label.get_text() for label in heat.get_yticklabels()]
    assert names[:4] == ["silo-02", "silo-07", "silo-04", "silo-09"]
    weights = heat.images[0].get_array()
    assert weights is not None
    assert weights[0].argmax() == weights[1].argmax() != weights[2].argmax()
    assert {"code", "dialogue"} <= set(labels(figure).splitlines())


def test_labels_thin_out(tmp_path: Path) -> None:
    heat = plot_experts.draw(make_run(tmp_path, silos=100, rounds=1)).axes[0]
    names = [label.get_text() for label in heat.get_yticklabels()]
    assert len(names) == 100
    assert sum(map(bool, names)) <= 50


def test_every_band_that_can_be_seen_bears_its_expert(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=10, rounds=9, lifecycle=True)
    figure = plot_experts.draw(run)
    named = [text.get_text() for text in figure.axes[1].texts]
    assert [name.split("  ")[0] for name in named] == [
        *("expert 0", "expert 2", "expert 3", "expert 4"),
        "1",  # merged after two thirds of the rounds
    ]


def test_long_curves_keep_their_dashes(tmp_path: Path) -> None:
    figure = plot_worst.draw(make_run(tmp_path, silos=2, rounds=90, full=False))
    assert {line.get_markevery() for line in figure.axes[0].lines} == {5}


def test_one_colour_per_slot() -> None:
    assert len(set(SLOTS)) == len(SLOTS) == 12


def test_worst_picture_names_the_worst_silo(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=5)
    worst = max(run.last_clients.values(), key=lambda row: row["ppl"] or 0)
    figure = plot_worst.draw(run)
    assert f"{worst['ppl']:.2f} {worst['client']}" in labels(figure)
    assert len(figure.axes[0].lines) == 5 + 2
    assert figure.axes[0].get_yscale() == "log"


def test_without_evaluation_the_training_loss_is_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=False)
    rounds: Any = [{**row, "ppl": None, "ppl_worst": None} for row in run.rounds]
    figure = plot_worst.draw(replace(run, rounds=rounds))
    assert_readable(figure)
    assert "eval-every" in flat(figure)


def test_negative_transfer_is_signed_and_sorted(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=5)
    figure = plot_transfer.draw(run)
    widths = [bar.get_width() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    known = [row["negative_transfer"] or 0.0 for row in run.last_clients.values()]
    assert widths == sorted(known)
    harmed = sum(value > 0 for value in known)
    assert f"{harmed} of 5 silos are worse off" in flat(figure)
    assert "0 = as good as local training" in flat(figure)


def test_negative_transfer_is_drawn_from_counts_where_no_silo_is_named(tmp_path: Path) -> None:
    named = make_run(tmp_path, silos=30, name="named")
    figure = plot_transfer.draw(make_run(tmp_path, silos=30, full=False, counted=True))
    harmed = sum((row["negative_transfer"] or 0) > 0 for row in named.last_clients.values())
    assert f"{harmed} of 30 silos are worse off" in flat(figure)
    bars: Any = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 30
    assert sum(bar.get_height() for bar in bars if bar.get_x() >= -1e-9) == harmed


def test_the_spread_of_silos_is_drawn_from_counts_where_no_silo_is_named(tmp_path: Path) -> None:
    figure = plot_worst.draw(make_run(tmp_path, silos=30, full=False, counted=True))
    assert "8 of 10 silos" in labels(figure)
    assert len(figure.axes[0].collections) == 1


def test_silos_without_a_baseline_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=5)
    rows: Any = [
        {**row, "negative_transfer": None} if row["client"] == "silo-00" else row
        for row in run.clients
    ]
    assert "1 without a baseline" in plot_transfer.compare(replace(run, clients=rows)).note


def test_without_a_baseline_the_change_since_round_0_is_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=5, baseline=False)
    figure = plot_transfer.draw(run)
    assert "Change since round 0 (no local baseline was given)" in flat(figure)
    assert "train alone" in flat(figure)
    assert "local-baseline-json" in flat(figure)
    assert all(value < 0 for value in plot_transfer.compare(run).values.values())


def broken(run: Run) -> Run:
    rounds: Any = [{**row, "mass": None, "ppl": None, "ppl_worst": None} for row in run.rounds]
    return replace(run, rounds=rounds, clients=[])


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES.keys())
def test_a_run_that_knows_nothing_says_so(tmp_path: Path, draw: Any) -> None:
    for run in (broken(make_run(tmp_path)), replace(make_run(tmp_path, name="b"), rounds=[])):
        figure = draw(run)
        figure.canvas.draw()
        assert all(axes.has_data() or axes.texts for axes in figure.axes)


def test_mathematics_in_names_is_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=3)
    rows: Any = [{**row, "category": "$x^", "client": "a_$b" * 20} for row in run.clients]
    for draw in PICTURES.values():
        assert_readable(draw(replace(run, clients=rows)))
