"""Picture: which silo uses which expert, and how much of the data each expert explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedvemoe_app.report import style
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.lifecycle import shares as shares_of
from fedvemoe_app.report.rows import ClientRow, RoundRow

NEGLIGIBLE = 0.005  # a weight no reader could see
ROOM = 0.03  # share of mass from which on a band has room for its name
MOST_SILOS_WITH_NUMBERS = 24


def draw(run: Run) -> Figure:
    """Return the heat map silos x experts beside the mass of each expert over rounds.

    Without rows per silo (aggregate reporting), the last mass and prior of each expert take
    the place of the heat map.
    """
    silos = [row for row in run.last_clients.values() if any(row.get("responsibilities") or ())]
    silos.sort(key=lambda row: (row.get("category") or "", row["client"]))
    with style.settings():
        made = style.figure(11.0, max(3.8, 1.5 + style.height(len(silos))))
        left, right = made.subplots(1, 2, width_ratios=[1.15, 1.0])
        if silos:
            _heat_map(left, silos)
        else:
            _last_mass(left, run.rounds)
            style.caption(made, "Responsibilities per silo are not in the journal of this run.")
        _mass(right, run.rounds)
    return made


def _heat_map(axes: Axes, silos: Sequence[ClientRow]) -> None:
    table = np.array([row["responsibilities"] for row in silos], dtype=float)
    weights = np.nan_to_num(table)  # [silos, K_max]
    slots = np.flatnonzero(weights.max(axis=0) > NEGLIGIBLE)
    shown = weights[:, slots]
    image = axes.imshow(shown, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.set_title("Which silo uses which expert")
    axes.set_xticks(range(len(slots)), [str(slot) for slot in slots])
    axes.set_xlabel("expert")
    style.name_rows(axes, [row["client"] for row in silos])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0)
    if len(silos) <= MOST_SILOS_WITH_NUMBERS:
        _numbers(axes, shown)
    _categories(axes, [row.get("category") or "" for row in silos])
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=35, pad=0.02)
    bar.set_label("responsibility of the expert for the silo")


def _numbers(axes: Axes, weights: NDArray[np.float64]) -> None:
    for (row, column), weight in np.ndenumerate(weights):
        if weight >= 0.05:
            ink = "black" if weight > 0.55 else "white"
            text = f"{weight:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)


def _categories(axes: Axes, categories: Sequence[str]) -> None:
    """Divide the rows by category and name each group at the right edge."""
    starts = [row for row, name in enumerate(categories) if not row or name != categories[row - 1]]
    ends = [*starts[1:], len(categories)]
    for start, end in zip(starts, ends, strict=True):
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=2.5)
        axes.annotate(
            style.short(categories[start]),
            xy=(1.0, (start + end - 1) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
            fontsize=8,
        )


def _mass(axes: Axes, rounds: Sequence[RoundRow]) -> None:
    """Draw each expert's share of the mass over rounds; one round is one bar."""
    rows = [row for row in rounds if row.get("mass")]
    axes.set_title("Share of the data each expert explains")
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of mass")
    axes.set_xlabel("round")
    if not rows:
        style.say(axes, "no mass in this journal: no round has been trained yet")
        return
    shares = shares_of(rows)
    slots = [int(slot) for slot in np.flatnonzero(shares.max(axis=0) > NEGLIGIBLE)]
    numbers = [row["round"] for row in rows]
    if len(rows) == 1:
        _one_bar(axes, numbers[0], shares[0], slots)
        return
    colours = [style.slot_colour(slot) for slot in slots]
    bands = axes.stackplot(
        numbers, shares[:, slots].T, colors=colours, edgecolor="white", linewidth=0.8
    )
    for place, band in enumerate(bands):
        band.set_hatch(style.hatch(place % 2 == 1))
    axes.set_xlim(numbers[0], numbers[-1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_bands(axes, shares[-1], slots, numbers[-1])
    _name_ended(axes, shares, slots, numbers)


def _one_bar(axes: Axes, number: int, shares: NDArray[np.float64], slots: Sequence[int]) -> None:
    below = 0.0
    for place, slot in enumerate(slots):
        bars = axes.bar(number, shares[slot], 0.6, bottom=below, edgecolor="white")
        bars[0].set(facecolor=style.slot_colour(slot), hatch=style.hatch(place % 2 == 1))
        below += shares[slot]
    axes.set_xlim(number - 0.6, number + 0.6)
    axes.set_xticks([number])
    _name_bands(axes, shares, slots, number + 0.3)


def _name_bands(axes: Axes, shares: NDArray[np.float64], slots: Sequence[int], edge: float) -> None:
    """Write each expert's name beside the end of its band, where the band is high enough."""
    below = 0.0
    for slot in slots:
        if shares[slot] > ROOM:
            axes.annotate(
                f"{style.slot_name(slot)}  {100 * shares[slot]:.0f} %",
                xy=(edge, below + shares[slot] / 2),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        below += shares[slot]


def _name_ended(
    axes: Axes, shares: NDArray[np.float64], slots: Sequence[int], numbers: Sequence[int]
) -> None:
    """Write the number of each expert that is too thin at the end into its band's widest place."""
    top = np.cumsum(shares[:, slots], axis=1)
    sides = {0: "left", len(numbers) - 1: "right"}
    for place, slot in enumerate(slots):
        row = int(shares[:, slot].argmax())
        if shares[-1, slot] <= ROOM < shares[row, slot]:
            middle = top[row, place] - shares[row, slot] / 2
            axes.annotate(
                str(slot),
                xy=(numbers[row], middle),
                xytext=(3 if row == 0 else 0, 0),
                textcoords="offset points",
                ha=sides.get(row, "center"),
                va="center",
                fontsize=7,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )


def _last_mass(axes: Axes, rounds: Sequence[RoundRow]) -> None:
    """Draw the last round's mass and prior of each expert, side by side."""
    rows = [row for row in rounds if row.get("mass")]
    axes.set_title("Mass and prior of each expert, last round")
    if not rows:
        style.say(axes, "no mass in this journal: no round has been trained yet")
        return
    share = shares_of(rows)[-1]
    prior = np.array(rows[-1].get("prior") or np.zeros_like(share), dtype=float)
    slots = np.flatnonzero((share > NEGLIGIBLE) | (prior > NEGLIGIBLE))
    places = np.arange(len(slots))
    axes.bar(places - 0.2, share[slots], 0.4, color=style.HELPS, label="share of mass")
    axes.bar(places + 0.2, prior[slots], 0.4, color="#E69F00", hatch="//", label="prior")
    axes.set_xticks(places, [str(slot) for slot in slots])
    axes.set_xlabel("expert")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
