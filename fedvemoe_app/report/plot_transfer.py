"""Picture: negative transfer of each silo, or the nearest thing the journal knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedvemoe_app.report import style
from fedvemoe_app.report.buckets import Counts, histograms
from fedvemoe_app.report.journal import Curve, Run, curve, known
from fedvemoe_app.report.paper_curves import transfer_counts

ADVICE = (
    "To see negative transfer, let silos train alone too: leave private-slot on, or give "
    "local_baselines.json of a run with strategy=local as local-baseline-json."
)
MOST_NUMBERS = 40  # bars with their value beside them


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of log perplexity, nats per token; above 0 is worse than the zero line."""

    values: Mapping[str, float]
    title: str
    zero: str  # what the zero line stands for
    note: str


def draw(run: Run) -> Figure:
    """Return one bar per silo: against its local baseline, else against round 0."""
    shown = compare(run)
    counted = histograms(run.rounds, "transfer_histogram")
    if counted and not run.clients:
        return _counted(counted[-1])
    with style.settings():
        made = style.figure(7.8, max(3.2, 2.0 + style.height(len(shown.values))))
        axes = made.subplots()
        axes.set_title(shown.title)
        style.caption(made, shown.note)
        if shown.values:
            _bars(axes, shown)
        else:
            style.say(axes, "no silo and no round of this run was evaluated")
    return made


def _counted(last: Counts) -> Figure:
    """Return counts of silos by their negative transfer, where no silo is named."""
    beyond = last.counts[last.centres > 0].sum()
    with style.settings():
        made = style.figure(7.8, 3.8)
        axes = made.subplots()
        axes.set_title("Negative transfer: silos by bucket")
        transfer_counts(axes, last)
        note = f"{beyond:.0f} of {last.counts.sum():.0f} silos are worse off than with their own "
        style.caption(made, note + "local training. Silos are counted, not named.")
    return made


def compare(run: Run) -> Comparison:
    """Choose what the bars show: local baseline, round 0, or the other silos."""
    last = run.last_clients
    values = {
        name: value
        for name, row in last.items()
        if (value := row.get("negative_transfer")) is not None
    }
    if values:
        return _against_local(values, len(last))
    curves = _evaluated_twice(run.perplexities) or _evaluated_twice(_totals(run))
    if curves:
        return _against_first(curves)
    title = "Silos against all silos pooled (one evaluated round, no local baseline)"
    return Comparison(_against_pooled(run), title, "all silos pooled", ADVICE)


def _against_local(values: Mapping[str, float], silos: int) -> Comparison:
    harmed = sum(value > 0 for value in values.values())
    note = f"{harmed} of {len(values)} silos are worse off than with their own local training."
    if len(values) < silos:
        note += f" {silos - len(values)} without a baseline are left out."
    return Comparison(values, "Negative transfer of each silo", "as good as local training", note)


def _against_first(curves: Mapping[str, Curve]) -> Comparison:
    start = min(rounds[0] for rounds, _ in curves.values())
    changes = {name: _log_ratio(values[-1], values[0]) for name, (_, values) in curves.items()}
    title = f"Change since round {start} (no local baseline was given)"
    return Comparison(changes, title, f"as in round {start}", ADVICE)


def _evaluated_twice(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    return {name: points for name, points in curves.items() if len(points[1]) > 1}


def _totals(run: Run) -> dict[str, Curve]:
    """Return the two curves that every journal has, aggregate reporting included."""
    totals = {"all silos pooled": "ppl", "worst silo": "ppl_worst"}
    return {name: curve(run.rounds, key) for name, key in totals.items()}


def _against_pooled(run: Run) -> dict[str, float]:
    pooled = known(run.rounds, "ppl", -1)
    ppl = {name: row["ppl"] for name, row in run.last_clients.items()}
    ppl = ppl or {"worst silo": known(run.rounds, "ppl_worst", -1)}
    return {name: _log_ratio(value, pooled) for name, value in ppl.items() if value and pooled}


def _log_ratio(ppl: float, reference: float) -> float:
    return math.log(ppl) - math.log(reference)


def _bars(axes: Axes, shown: Comparison) -> None:
    order = sorted(shown.values, key=lambda name: shown.values[name])
    values = [shown.values[name] for name in order]
    colours = [style.HARMS if value > 0 else style.HELPS for value in values]
    bars = axes.barh(range(len(order)), values, color=colours, edgecolor="white", linewidth=0.5)
    for bar, value in zip(bars, values, strict=True):
        bar.set_hatch(style.hatch(value > 0))
    style.name_rows(axes, order)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=style.INK, linewidth=1.2)
    extent = max(map(abs, values)) or 1.0
    axes.set_xlim(-1.25 * extent, 1.25 * extent)
    if len(values) <= MOST_NUMBERS:
        texts = [f"{value:+.3f}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=7, color=style.INK)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.set_xlabel(
        f"\N{LEFTWARDS ARROW} better      0 = {shown.zero}      worse \N{RIGHTWARDS ARROW}\n"
        "difference of log perplexity, nats per token"
    )
