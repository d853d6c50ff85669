"""Pictures of studies: a row for each variant, best above, and a line for each seed's bank."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study_pictures import draw
from tests.report.synthetic import make_run


def test_variants_are_ranked_by_their_mean_perplexity(tmp_path: Path) -> None:
    gains = {"plain": 0.0, "better": 0.5}
    runs = {
        (label, seed): make_run(tmp_path, name=f"{label}-{seed}", seed=seed, gain=gain).folder
        for label, gain in gains.items()
        for seed in (1, 2)
    }
    everybody, worst = draw(runs, planted=None).axes
    assert [label.get_text() for label in everybody.get_yticklabels()] == ["better", "plain"]
    for axes in (everybody, worst):
        points, middle = (line.get_xdata() for line in axes.lines[:2])
        assert len(points) == 2
        assert min(points) < middle[0] < max(points)


def test_the_bank_has_a_line_for_each_seed_and_one_for_the_planted_number(tmp_path: Path) -> None:
    made = {
        (label, seed): make_run(tmp_path, name=f"{label}-{seed}", slots=3 + seed, seed=seed)
        for label in ("k-init 1", "k-init 3")
        for seed in (1, 2)
    }
    panels = draw({key: run.folder for key, run in made.items()}, planted=4).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["k-init 1", "k-init 3"]
    planted, *banks = panels[0].lines
    assert set(planted.get_ydata()) == {4}
    for seed, line in zip((1, 2), banks, strict=True):
        expected = [row["k_active"] for row in made["k-init 1", seed].rounds]
        assert [round(size) for size in line.get_ydata()] == expected


@pytest.mark.parametrize("planted", [None, 4])
def test_one_run_is_a_picture_as_well(tmp_path: Path, planted: int | None) -> None:
    runs = {("only", 0): make_run(tmp_path).folder}
    assert draw(runs, planted).axes
