"""Panels of the paper figure: who uses which expert, at a few rounds side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from fedvemoe_app.report import style
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.lifecycle import shares

MOMENTS = 4  # rounds shown side by side
MOST_NAMED = 16  # silos with a name beside their row
MOST_SLOTS_NAMED = 10  # below a heat map
NEGLIGIBLE = 0.005  # a weight no reader could see
COLOURS = "cividis"  # grows darker to lighter evenly, in colour and in grey


@dataclass(frozen=True, slots=True)
class Moments:
    """Responsibilities at a few rounds: ``weights`` by round, each [silos, slots], NaN unknown."""

    silos: Sequence[str]
    categories: Sequence[str]  # of each silo; silos of a category stand together
    slots: Sequence[int]
    weights: Mapping[int, NDArray[np.float64]]


def moments(run: Run) -> Moments | None:
    """Return the table of each round to be shown; None where no silo reports."""
    rows = [row for row in run.clients if any(row.get("responsibilities") or ())]
    if not rows:
        return None
    category = {row["client"]: row.get("category") or "" for row in rows}
    silos = sorted(category, key=lambda silo: (category[silo], silo))
    width = max(len(row["responsibilities"] or ()) for row in rows)
    tables: dict[int, NDArray[np.float64]] = {}
    for row in rows:
        table = tables.setdefault(row["round"], np.full((len(silos), width), np.nan))
        values = np.array(row["responsibilities"], dtype=float)
        table[silos.index(row["client"]), : len(values)] = values
    shown = {number: tables[number] for number in selected(sorted(tables))}
    largest = np.nanmax([np.nan_to_num(table).max(axis=0) for table in shown.values()], axis=0)
    slots = [int(slot) for slot in np.flatnonzero(largest > NEGLIGIBLE)]
    weights = {number: table[:, slots] for number, table in shown.items()}
    return Moments(silos, [category[silo] for silo in silos], slots, weights)


def selected(rounds: Sequence[int]) -> list[int]:
    """Return up to four rounds, the first and the last among them, evenly between."""
    places = np.linspace(0, len(rounds) - 1, min(MOMENTS, len(rounds)))
    return [rounds[round(place)] for place in places]


def height(found: Moments) -> float:
    """Return the inches that the heat maps take."""
    return 1.05 + min(3.4, max(0.5, 0.12 * len(found.silos)))


def draw(part: SubFigure, found: Moments) -> None:
    """Draw one heat map per round on one scale, rows grouped by category."""
    panels = part.subplots(1, len(found.weights), sharey=True, squeeze=False)[0]
    colours = colormaps[COLOURS].with_extremes(bad="white")
    for axes, (number, weights) in zip(panels, found.weights.items(), strict=True):
        image = axes.imshow(
            weights, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="none"
        )
        axes.set_title(f"round {number}", loc="center", fontweight="normal")
        _experts_below(axes, found.slots)
        _divide(axes, found.categories)
    _silos_left(panels[0], found)
    _categories_right(panels[-1], found.categories)
    bar = part.colorbar(image, ax=panels, location="right", aspect=18, shrink=0.9, pad=0.01)
    bar.set_label("responsibility")
    bar.outline.set_visible(False)


def draw_shares(part: SubFigure, run: Run) -> None:
    """Draw each expert's share of the data over rounds, for a journal that names no silo."""
    rows = [row for row in run.rounds if row.get("mass")]
    table = shares(rows)
    slots = [int(slot) for slot in np.flatnonzero(table.max(axis=0) > NEGLIGIBLE)]
    axes = part.subplots()
    image = axes.imshow(
        table[:, slots].T, cmap=COLOURS, vmin=0, aspect="auto", interpolation="none"
    )
    step = -(-len(rows) // 20)
    axes.set_xticks(range(0, len(rows), step), [str(row["round"]) for row in rows[::step]])
    axes.set_yticks(range(len(slots)), [style.slot_name(slot) for slot in slots])
    axes.set_xlabel("round")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = part.colorbar(image, ax=axes, location="right", aspect=18, shrink=0.9, pad=0.01)
    bar.set_label("share of the data")
    bar.outline.set_visible(False)


def _experts_below(axes: Axes, slots: Sequence[int]) -> None:
    step = -(-len(slots) // MOST_SLOTS_NAMED)
    axes.set_xticks(range(0, len(slots), step), [str(slot) for slot in slots[::step]])
    axes.set_xlabel("expert")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _divide(axes: Axes, categories: Sequence[str]) -> None:
    for row in range(1, len(categories)):
        if categories[row] != categories[row - 1]:
            axes.axhline(row - 0.5, color="white", linewidth=1.5)


def _silos_left(axes: Axes, found: Moments) -> None:
    named = len(found.silos) <= MOST_NAMED
    names = [style.short(silo, 14) if named else "" for silo in found.silos]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    if not named:
        axes.set_ylabel(f"{len(names)} silos")


def _categories_right(axes: Axes, categories: Sequence[str]) -> None:
    """Name each category at the middle of its rows, where its rows are high enough for text."""
    for name in dict.fromkeys(categories):
        rows = [row for row, other in enumerate(categories) if other == name]
        axes.annotate(
            style.short(name, 14),
            xy=(1.0, (rows[0] + rows[-1]) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
