"""Pictures of a study: what its variants came to, and how large the bank was in which round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from benchmarks.outcomes import outcome
from fedvemoe_app.report import style
from fedvemoe_app.report.journal import Run, read_run

Runs = Mapping[tuple[str, int], Path]
"""Run folders by label and seed."""


def draw(runs: Runs, planted: int | None) -> Figure:
    """Return the picture of a study: the bank's size where a number was ``planted``."""
    by_label: dict[str, list[Run]] = {}
    for (label, _), path in runs.items():
        by_label.setdefault(label, []).append(read_run(path))
    with style.settings():
        return _outcomes(by_label) if planted is None else _sizes(by_label, planted)


def _outcomes(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Draw perplexities: a point for each seed, a diamond for the mean, best above."""
    found = {label: [outcome(run, {}) for run in of] for label, of in runs.items()}
    ranked = sorted(found, key=lambda label: mean(one.ppl for one in found[label]))
    made = style.figure(9.0, 0.9 + 0.28 * len(found))
    panels = made.subplots(1, 2, sharey=True)
    titles = {"ppl": "perplexity, all silos", "worst": "perplexity, worst silo"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for row, label in enumerate(ranked):
            values = [getattr(one, key) for one in found[label]]
            axes.plot(values, [row] * len(values), "o", color=style.HELPS, alpha=0.5, markersize=4)
            axes.plot(mean(values), row, "D", color=style.HELPS, markeredgecolor=style.INK)
        axes.set_title(title)
        _logarithmic(axes)
    panels[0].set_yticks(range(len(ranked)), ranked)
    panels[0].set_ylim(len(ranked) - 0.5, -0.5)
    style.caption(made, "Point: a seed. Diamond: mean of the seeds. Left is better.")
    return made


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _sizes(runs: Mapping[str, Sequence[Run]], planted: int) -> Figure:
    """Draw living experts by round: a line for each seed, beside each other where they meet."""
    made = style.figure(3.2 * len(runs) + 0.4, 2.7)
    panels = made.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (label, of) in zip(panels, runs.items(), strict=True):
        axes.axhline(planted, color=style.SOFT, linewidth=0.9, linestyle="--")
        beside = np.linspace(-0.12, 0.12, len(of)) if len(of) > 1 else [0.0]
        for slot, (run, apart) in enumerate(zip(of, beside, strict=True)):
            sizes = [row["k_active"] + apart for row in run.rounds]
            axes.step(range(len(sizes)), sizes, where="post", color=style.slot_colour(slot))
        axes.set_title(label)
        axes.set_xlabel("round")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("living experts")
    style.caption(made, f"A line for each seed. Dashed: the planted number, {planted}.")
    return made
