"""How pictures look: colours that survive colour blindness and grey print, labels that fit.

Figures are made without pyplot, so drawing changes no global state and needs no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

DPI, PRINT_DPI = 160, 300
MOST_MARKERS = 20  # on a curve; more would hide whether it is whole or dashed
MOST_LABELS = 50  # silo names along an axis
SPREAD_FOR_LOG = 4.0  # largest over smallest perplexity, above which the axis is logarithmic
HELPS, HARMS, INK, SOFT = "#0072B2", "#D55E00", "#222222", "#9A9A9A"

# Okabe and Ito's colours, then five more of Paul Tol's: one per expert slot.
SLOTS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#332288",
    "#999933",
    "#882255",
    "#BBBBBB",
    "#44AA99",
)

_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,
    "pdf.fonttype": 42,  # TrueType, which publishers accept; matplotlib's own default is Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "fedvemoe",
}


def slot_colour(slot: int) -> str:
    """Return the colour of an expert slot, the same in every picture of a run."""
    return SLOTS[slot % len(SLOTS)]


def slot_name(slot: int) -> str:
    """Return how a slot is called in pictures and tables."""
    return f"expert {slot}"


def settings(changes: Mapping[Any, Any] | None = None) -> Any:
    """Return the context in which figures are drawn and saved."""
    return rc_context({**_SETTINGS, **(changes or {})})


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` x ``height`` inches whose layout clips no label."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write the figure in the format of the path's ending, the same bytes each time.

    PDF holds its fonts, SVG holds text as outlines: both look alike everywhere.
    """
    kind = path.suffix.removeprefix(".")
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with settings():
        made.savefig(path, dpi=dpi, facecolor="white", format=kind, metadata=dates.get(kind))
    return path


def height(silos: int, most: float = 10.0) -> float:
    """Return the inches that ``silos`` rows take: each less, the more there are."""
    return min(most, 0.24 * min(silos, 20) + 0.1 * max(0, silos - 20))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of ``axes``, leaving names out where there are too many to read."""
    step = -(-len(names) // MOST_LABELS)
    shown = [short(name) if row % step == 0 else "" for row, name in enumerate(names)]
    axes.set_yticks(range(len(names)), shown, fontsize=8 if len(names) <= 30 else 6)
    axes.tick_params(axis="y", length=0)


def short(name: str, most: int = 26) -> str:
    """Return ``name``, its end cut off where it would take the picture's room."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def markers(points: Sequence[Any]) -> int:
    """Return every which point of a curve gets a marker."""
    return -(-len(points) // MOST_MARKERS) or 1


def perplexity_axis(axes: Axes, values: Sequence[float]) -> bool:
    """Make the axis logarithmic where perplexities lie far apart; return whether it is."""
    if max(values) / min(values) <= SPREAD_FOR_LOG:
        return False
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def grid(axes: Axes, axis: Literal["x", "y"], width: float = 0.6) -> None:
    """Draw light lines behind everything at the ticks of one axis."""
    axes.grid(axis=axis, color="#E5E5E5", linewidth=width)
    axes.set_axisbelow(True)


def say(axes: Axes, text: str) -> None:
    """Write why there is nothing to draw where the drawing would be."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, wrap=True)


def hatch(marked: bool) -> str:
    """Return the pattern that tells areas apart where colours do not."""
    return "///" if marked else ""


def caption(made: Figure, text: str) -> None:
    """Write a note under the figure."""
    made.supxlabel(text, fontsize=8, color="#555555", ha="left", x=0.01, wrap=True)
