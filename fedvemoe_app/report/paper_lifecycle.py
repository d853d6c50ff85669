"""Panel of the paper figure: the lives of the experts, with births, trials, prunes and merges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from fedvemoe_app.report import style
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.lifecycle import (
    SILOS_JOINED,
    SILOS_MISSING,
    Life,
    happenings,
    lives,
    rounds_with,
    shares,
)
from fedvemoe_app.report.rows import EventRow

MARKS = {
    "birth": ("^", "white"),
    "accept": ("o", style.INK),
    "close": ("X", "white"),
    "prune": ("v", style.INK),
    "merge": ("D", style.INK),
    "full": ("s", "white"),
    "below-c-min": ("P", "white"),
}
"""Marker and fill of each kind of event: told apart by shape, never by colour."""

OTHER = ("*", "white")
SILOS = (
    ("silos missing", SILOS_MISSING, "|", style.HARMS),
    ("silos joined", SILOS_JOINED, "+", style.HELPS),
)
"""Marks above the experts, of rounds in which silos came or were missing."""

THINNEST, THICKEST = 0.10, 0.74  # height of a band, in rows, for no share and the largest one
SPACING = 6.5  # points between marks of one slot in one round


def height(run: Run) -> float:
    """Return the inches that the panel takes."""
    return 0.95 + 0.17 * max(2, len({life.slot for life in lives(run)}))


def draw(axes: Axes, run: Run) -> None:
    """Draw one row per slot that ever lived: a band as thick as its share, events as marks."""
    found, marks = lives(run), happenings(run)
    named = {slot for row in marks for slot in row["slots"]}
    slots = sorted({life.slot for life in found} | named)
    rows = {slot: float(row) for row, slot in enumerate(slots)}
    largest = _largest_share(run)
    for life in found:
        _band(axes, run, life, rows[life.slot], largest)
    _events(axes, marks, rows)
    strips = _silos(axes, run, len(slots))
    axes.set_yticks(range(len(slots)), [str(slot) for slot in slots])
    axes.set_ylabel("expert")
    axes.set_ylim(-0.7, len(slots) - 0.3 + 0.7 * strips)
    _rounds_below(axes, run)


def _largest_share(run: Run) -> float:
    table = shares([row for row in run.rounds if row.get("mass")])
    return float(table.max(initial=0.0)) or 1.0


def _band(axes: Axes, run: Run, life: Life, row: float, largest: float) -> None:
    """Draw one life; a life of one round is half a round wide."""
    rows = [one for one in run.rounds if life.first <= one["round"] <= life.last]
    rows = [one for one in rows if one.get("mass") or one.get("prior")]
    table = shares(rows)
    share = table[:, life.slot] if life.slot < table.shape[1] else np.zeros(len(rows))
    half = (THINNEST + (THICKEST - THINNEST) * share / largest) / 2
    numbers = np.array([one["round"] for one in rows], dtype=float)
    if len(numbers) == 1:
        numbers, half = numbers[0] + np.array([-0.25, 0.25]), np.repeat(half, 2)
    axes.fill_between(
        numbers, row - half, row + half, color=style.slot_colour(life.slot), linewidth=0
    )


def _events(axes: Axes, marks: Sequence[EventRow], rows: dict[int, float]) -> None:
    """Draw the marks; those of one slot in one round stand side by side."""
    placed = [
        (event, row)
        for event in marks
        for row in [rows[slot] for slot in event["slots"]] or [len(rows) - 0.5]
    ]
    spots = Counter((event["round"], row) for event, row in placed)
    used: Counter[tuple[int, float]] = Counter()
    labelled: set[str] = set()
    for event, row in placed:
        spot = event["round"], row
        shift = SPACING * (used[spot] - (spots[spot] - 1) / 2)
        used[spot] += 1
        kind = event["event"]
        _mark(axes, spot, shift, kind, "" if kind in labelled else style.short(kind))
        labelled.add(kind)
    for event in marks:
        if event["event"] == "merge":
            ends = [rows[slot] for slot in event["slots"]]
            axes.plot([event["round"]] * len(ends), ends, color=style.INK, linewidth=0.9)


def _mark(axes: Axes, spot: tuple[int, float], shift: float, kind: str, label: str) -> None:
    """Draw one mark ``shift`` points beside its spot."""
    shape, fill = MARKS.get(kind, OTHER)
    aside = ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot(
        spot[0],
        spot[1],
        shape,
        markersize=4.8,
        markerfacecolor=fill,
        markeredgecolor=style.INK,
        markeredgewidth=0.8,
        linestyle="none",
        label=label or None,
        clip_on=False,
        zorder=4,
        transform=axes.transData + aside,
    )


def _silos(axes: Axes, run: Run, top: int) -> int:
    """Mark above the experts when silos came or were missing; return how many lines that took."""
    known = [(rounds_with(run, kinds), label, shape, ink) for label, kinds, shape, ink in SILOS]
    shown = [mark for mark in known if mark[0]]
    for line, (rounds, label, shape, colour) in enumerate(shown):
        axes.plot(
            rounds,
            [top - 0.1 + 0.7 * line] * len(rounds),
            shape,
            color=colour,
            markersize=6,
            markeredgewidth=1.4,
            linestyle="none",
            label=label,
        )
    return len(shown)


def _rounds_below(axes: Axes, run: Run) -> None:
    numbers = [row["round"] for row in run.rounds]
    axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("round")
    _, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
