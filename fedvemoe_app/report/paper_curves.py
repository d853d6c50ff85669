"""Panels of the paper figure: perplexity, negative transfer, and what a round costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedvemoe_app.report import style
from fedvemoe_app.report.buckets import Counts, histograms
from fedvemoe_app.report.journal import Curve, Run, curve

PHASES = ("#1B1B1B", "#0072B2", "#D98200", "#7FBFE5", "#F2DE7C", "#B5B5B5")
"""Fills of phases, dark to light, so that neighbours differ in grey as well."""

NEAR = 0.25
"""Nats per token about zero that are shown in any case: one bucket alone is no picture."""
MOST_PHASES = len(PHASES)
MOST_BARS = 25  # rounds drawn with a gap between their bars
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def perplexity(axes: Axes, run: Run) -> None:
    """Draw the pooled and the worst perplexity, over every silo or over the spread of silos."""
    pooled, worst = curve(run.rounds, "ppl"), curve(run.rounds, "ppl_worst")
    for each in run.perplexities.values():
        axes.plot(*each, color=style.SOFT, linewidth=0.4, alpha=0.7)
    if run.perplexities:
        axes.lines[0].set_label("each silo")
    else:
        spread(axes, run)
    if worst[0]:
        _line(axes, worst, "--^", style.HARMS, "worst silo")
    if pooled[0]:
        _line(axes, pooled, "-o", style.HELPS, "all silos")
    style.perplexity_axis(axes, [*pooled[1], *worst[1], *_all(run)])
    _finish(axes, "perplexity")


def _line(axes: Axes, points: Curve, kind: str, colour: str, label: str | None = None) -> None:
    (line,) = axes.plot(*points, kind, color=colour, linewidth=1.3, label=label)
    line.set(markersize=3, markevery=style.markers(points[0]))


def _all(run: Run) -> list[float]:
    return [value for _, values in run.perplexities.values() for value in values]


def spread(axes: Axes, run: Run) -> None:
    """Shade the middle eight tenths of the silos, where only their numbers are known."""
    found = histograms(run.rounds, "ppl_histogram")
    if found:
        rounds = [counts.round for counts in found]
        low, high = ([float(np.exp(c.quantile(share))) for c in found] for share in (0.1, 0.9))
        label = "8 of 10 silos"
        if len(rounds) == 1:
            axes.plot(rounds * 2, [*low, *high], color=style.SOFT, linewidth=6, label=label)
        else:
            axes.fill_between(rounds, low, high, color="#D5D5D5", linewidth=0, label=label)


def knows_transfer(run: Run) -> bool:
    """Return whether the journal knows anything of negative transfer."""
    return bool(curve(run.rounds, "negative_transfer_share")[0]) or bool(_values(run))


def transfer(axes: Axes, run: Run) -> None:
    """Draw negative transfer: a point per silo by category, else counts, else the share."""
    values = _values(run)
    counted = histograms(run.rounds, "transfer_histogram")
    if values:
        _by_category(axes, values)
    elif counted:
        transfer_counts(axes, counted[-1])
    else:
        _share(axes, run)


def transfer_counts(axes: Axes, counts: Counts) -> None:
    """Draw how many silos lie in each bucket of negative transfer; harm is hatched as well."""
    shown = counts.trimmed()
    colours = [style.HARMS if centre > 0 else style.HELPS for centre in shown.centres]
    widths = np.diff(shown.edges)
    bars = axes.bar(shown.centres, shown.counts, widths, color=colours, edgecolor="white")
    for bar, centre in zip(bars, shown.centres, strict=True):
        bar.set(linewidth=0.5, hatch=style.hatch(centre > 0))
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_xlim(min(shown.edges[0], -NEAR), max(shown.edges[-1], NEAR))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"silos, round {shown.round}")
    axes.set_xlabel("negative transfer, nats per token")


def _values(run: Run) -> dict[str, list[float]]:
    """Return the last known negative transfer of each silo, by category."""
    found: dict[str, list[float]] = {}
    for row in run.last_clients.values():
        value = row.get("negative_transfer")
        if value is not None:
            found.setdefault(row.get("category") or "no category", []).append(value)
    return dict(sorted(found.items(), reverse=True))


def _by_category(axes: Axes, values: dict[str, list[float]]) -> None:
    for row, points in enumerate(values.values()):
        places = row + np.linspace(-0.22, 0.22, len(points)) * (len(points) > 1)
        harmed = np.array(points) > 0
        for mask, shape, colour in ((harmed, "^", style.HARMS), (~harmed, "o", style.HELPS)):
            axes.plot(
                np.array(points)[mask], places[mask], shape, color=colour, markersize=3.6, alpha=0.9
            )
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(range(len(values)), [style.short(name, 14) for name in values])
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.margins(x=0.12)
    axes.set_xlabel("negative transfer, nats per token")


def _share(axes: Axes, run: Run) -> None:
    rounds, values = curve(run.rounds, "negative_transfer_share")
    percent = [100 * value for value in values]
    _line(axes, (rounds, percent), "-o", style.HARMS)
    axes.set_ylim(-2, 102)
    _finish(axes, "silos worse off, %")


def traffic(axes: Axes, run: Run) -> None:
    """Draw the bytes of each round, up and down, in the largest unit that fits."""
    up, down = curve(run.rounds, "bytes_up"), curve(run.rounds, "bytes_down")
    _line(axes, up, "-o", style.HELPS, "to the server")
    _line(axes, down, "--^", style.HARMS, "to the silos")
    most = max([*up[1], *down[1], 1.0])
    scale, unit = next(pair for pair in UNITS if most >= pair[0])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:g}"))
    _finish(axes, f"{unit} in a round, all silos")
    _legend_above(axes, most, columns=2)


def knows_traffic(run: Run) -> bool:
    """Return whether any byte was counted."""
    return any(row.get("bytes_up") or row.get("bytes_down") for row in run.rounds)


def time(axes: Axes, run: Run) -> None:
    """Draw the wall seconds of each round, stacked by phase; small phases are one."""
    rounds = [row["round"] for row in run.rounds]
    below = np.zeros(len(rounds))
    width, line = (1.0, 0.0) if len(rounds) > MOST_BARS else (0.8, 0.3)
    for place, (name, values) in enumerate(_phases(run)):
        bars = axes.bar(rounds, values, width, bottom=below, color=PHASES[place], label=name)
        for bar in bars:
            bar.set(edgecolor="white", linewidth=line, hatch=style.hatch(place % 2 == 1))
        below += values
    _finish(axes, "seconds in a round")
    _legend_above(axes, float(below.max()), columns=3)


def _legend_above(axes: Axes, most: float, columns: int) -> None:
    """Make room above the largest value and put the legend there."""
    handles, labels = axes.get_legend_handles_labels()
    lines = -(-len(labels) // columns)
    axes.set_ylim(0, (1.1 + 0.13 * lines) * max(most, 1e-9))
    axes.legend(
        handles,
        labels,
        frameon=False,
        loc="upper left",
        ncols=columns,
        columnspacing=0.9,
        handlelength=1.8,
        handletextpad=0.4,
        borderaxespad=0.1,
    )


def knows_time(run: Run) -> bool:
    """Return whether any phase was timed."""
    return any(sum((row.get("seconds") or {}).values()) > 0 for row in run.rounds)


def _phases(run: Run) -> list[tuple[str, np.ndarray]]:
    """Return the seconds of the longest phases by round, longest first; the rest as "other"."""
    names = {name for row in run.rounds for name in row.get("seconds") or {}}
    table = {
        name: np.array([(row.get("seconds") or {}).get(name) or 0.0 for row in run.rounds])
        for name in sorted(names)
    }
    longest = sorted(table, key=lambda name: -table[name].sum())
    if len(longest) <= MOST_PHASES:
        return [(style.short(name, 12), table[name]) for name in longest]
    kept, rest = longest[: MOST_PHASES - 1], longest[MOST_PHASES - 1 :]
    other = np.sum([table[name] for name in rest], axis=0)
    return [*((style.short(name, 12), table[name]) for name in kept), ("other", other)]


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.grid(axes, "y", width=0.5)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, loc="upper right", handlelength=1.8, borderaxespad=0.1)


def panels(run: Run) -> Sequence[tuple[str, object]]:
    """Return title and drawing of each small panel that has something to show."""
    evaluated = curve(run.rounds, "ppl")[0] or curve(run.rounds, "ppl_worst")[0]
    shown = {
        "Perplexity": (perplexity, bool(evaluated)),
        "Negative transfer": (transfer, knows_transfer(run)),
        "Communication": (traffic, knows_traffic(run)),
        "Time by phase": (time, knows_time(run)),
    }
    return [(title, draw) for title, (draw, known) in shown.items() if known]
