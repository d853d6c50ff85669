"""Picture: runs side by side. A point per seed, a diamond for the mean, a line for the spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedvemoe_app.report import style
from fedvemoe_app.report.compare import METRICS, Comparison, Entry, Metric, spread

COLUMNS = 3
REFERENCE = "#E69F00"


def draw(found: Comparison) -> Figure:
    """Return one panel per metric that any run knows, groups in the same order in all."""
    shown = [m for m in METRICS if any(e.values[m.key] is not None for e in found.entries)]
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    with style.settings():
        made = style.figure(11.0, lines * (0.95 + 0.3 * max(2, len(found.groups))) + 0.4)
        panels = list(made.subplots(lines, columns, sharey=True, squeeze=False).flat)
        for axes, metric in zip(panels, shown, strict=False):
            _panel(axes, found, metric)
        for axes in panels[len(shown) :]:
            axes.remove()
        style.caption(made, _note(found))
    return made


def _panel(axes: Axes, found: Comparison, metric: Metric) -> None:
    for row, (name, entries) in enumerate(found.groups.items()):
        colour = REFERENCE if name == found.reference else style.HELPS
        _group(axes, row, entries, metric, colour)
    if metric.sign:
        axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_title(metric.heading)
    axes.set_xlabel(_direction(metric), fontsize=8)
    axes.set_yticks(range(len(found.groups)), [style.short(name, 34) for name in found.groups])
    axes.set_ylim(len(found.groups) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.1)
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _direction(metric: Metric) -> str:
    if metric.neutral:
        return ""
    if metric.higher_is_better:
        return "better \N{RIGHTWARDS ARROW}"
    return "\N{LEFTWARDS ARROW} better"


def _group(axes: Axes, row: int, entries: Sequence[Entry], metric: Metric, colour: str) -> None:
    values = [v for entry in entries if (v := entry.values[metric.key]) is not None]
    found = spread(values)
    if found is None:
        axes.text(
            0.02,
            row,
            "none",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=style.SOFT,
        )
        return
    places = row + np.linspace(-0.16, 0.16, len(values)) * (len(values) > 1)
    axes.plot(values, places, "o", color=colour, markersize=4.5, alpha=0.55)
    if found.deviation is not None:
        ends = [found.mean - found.deviation, found.mean + found.deviation]
        axes.plot(ends, [row, row], color=style.INK, linewidth=1.2)
    axes.plot(found.mean, row, "D", color=colour, markeredgecolor=style.INK, markersize=6.5)


def _note(found: Comparison) -> str:
    note = "Diamond: mean over runs; line: standard deviation; points: single runs."
    if found.reference is not None:
        note += f" Yellow: the reference, {found.reference}."
    return note
