"""Picture: the paper figure. Experts by silo over rounds, their lives, and what it all brought.

Its panels are chosen by what the journal knows: under aggregate reporting no silo is named, so the
share of each expert and counts of silos stand where heat maps and points of silos would.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from fedvemoe_app.report import paper_curves, paper_lifecycle, paper_responsibilities, style
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.lifecycle import lives

WIDTH = 7.2  # inches: both columns of a journal's page
SMALL_PANEL = 1.95  # inches high
_FONTS = {"font.size": 7.5, "axes.titlesize": 8, "legend.fontsize": 6.5, "axes.linewidth": 0.6}


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of the figure: its height in inches and what draws it into its part."""

    height: float
    draw: Callable[[SubFigure, Iterator[str]], None]


def draw(run: Run) -> Figure:
    """Return the figure; a journal without a single round says so."""
    letters = iter(string.ascii_lowercase)
    with style.settings(_FONTS):
        strips = _strips(run)
        if not strips:
            return _nothing()
        heights = [strip.height for strip in strips]
        made = style.figure(WIDTH, sum(heights))
        parts = made.subfigures(len(strips), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, strip in zip(parts, strips, strict=True):
            strip.draw(part, letters)
    return made


def _strips(run: Run) -> list[Strip]:
    """Choose the rows of the figure by what the journal knows."""
    strips = []
    found = paper_responsibilities.moments(run)
    if found:
        draw_found = _titled("Responsibilities", paper_responsibilities.draw, found)
        strips.append(Strip(paper_responsibilities.height(found), draw_found))
    elif any(row.get("mass") for row in run.rounds):
        shares = _titled("Share of the data", paper_responsibilities.draw_shares, run)
        strips.append(Strip(paper_lifecycle.height(run), shares))
    if lives(run):
        strips.append(Strip(paper_lifecycle.height(run), _lives(run)))
    small = list(paper_curves.panels(run))
    return [*strips, *(Strip(SMALL_PANEL, _side_by_side(run, row)) for row in _rows_of(small))]


def _rows_of(small: Sequence[tuple[str, object]]) -> list[Sequence[tuple[str, object]]]:
    """Return the small panels by row: two in a row, three where there are three."""
    if len(small) == 3:
        return [small]
    return [small[start : start + 2] for start in range(0, len(small), 2)]


def _titled(
    title: str, drawing: Callable[..., None], what: object
) -> Callable[[SubFigure, Iterator[str]], None]:
    def into(part: SubFigure, letters: Iterator[str]) -> None:
        part.suptitle(
            f"({next(letters)}) {title}", x=0.01, ha="left", fontweight="bold", fontsize=8
        )
        drawing(part, what)

    return into


def _lives(run: Run) -> Callable[[SubFigure, Iterator[str]], None]:
    def into(part: SubFigure, letters: Iterator[str]) -> None:
        axes = part.subplots()
        paper_lifecycle.draw(axes, run)
        axes.set_title(
            f"({next(letters)}) Lives of the experts (thickness: share of the data)", x=0
        )

    return into


def _side_by_side(
    run: Run, panels: Sequence[tuple[str, object]]
) -> Callable[[SubFigure, Iterator[str]], None]:
    def into(part: SubFigure, letters: Iterator[str]) -> None:
        row: Sequence[Axes] = part.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, drawing) in zip(row, panels, strict=True):
            drawing(axes, run)  # type: ignore[operator]
            axes.set_title(f"({next(letters)}) {title}")

    return into


def _nothing() -> Figure:
    made = style.figure(WIDTH, 1.5)
    axes = made.subplots()
    axes.set_axis_off()
    style.say(axes, "this journal holds no round yet")
    return made
