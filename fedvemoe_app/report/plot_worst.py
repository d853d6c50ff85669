"""Picture: perplexity over rounds, of all silos pooled, of the worst, and of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedvemoe_app.report import style
from fedvemoe_app.report.journal import Curve, Run, curve
from fedvemoe_app.report.paper_curves import spread


def draw(run: Run) -> Figure:
    """Return the picture; without any evaluation it shows the training loss instead."""
    with style.settings():
        made = style.figure(7.5, 4.6)
        axes = made.subplots()
        pooled, worst = curve(run.rounds, "ppl"), curve(run.rounds, "ppl_worst")
        if pooled[0] or worst[0]:
            _perplexities(axes, pooled, worst, run)
        else:
            _training_loss(axes, curve(run.rounds, "loss_train"))
            style.caption(made, "No round of this run was evaluated; see the setting eval-every.")
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style.grid(axes, "y")
    return made


def _perplexities(axes: Axes, pooled: Curve, worst: Curve, run: Run) -> None:
    silos = run.perplexities
    for each in silos.values():
        axes.plot(*each, color=style.SOFT, linewidth=0.7, alpha=0.7, marker=".", markersize=3)
    if silos:
        axes.lines[0].set_label("each silo")
    else:
        spread(axes, run)
    if worst[0]:
        _bold(axes, worst, "worst silo", style.HARMS, "--^")
        _name_end(axes, worst, _worst_name(silos, worst[0][-1]), style.HARMS, "bottom")
    if pooled[0]:
        _bold(axes, pooled, "all silos pooled", style.HELPS, "-o")
        _name_end(axes, pooled, "", style.HELPS, "top")
    axes.set_title("Perplexity of all silos together and of the worst one")
    axes.set_ylabel("perplexity (lower is better)")
    shown = [*pooled[1], *worst[1], *(value for _, ys in silos.values() for value in ys)]
    if style.perplexity_axis(axes, shown):
        axes.set_ylabel("perplexity (lower is better, log scale)")
    axes.margins(x=0.03)
    axes.legend(frameon=False, loc="upper right")


def _bold(axes: Axes, points: Curve, label: str, colour: str, kind: str) -> None:
    (line,) = axes.plot(*points, kind, color=colour, label=label, linewidth=2.2, zorder=3)
    line.set(markersize=5, markevery=style.markers(points[0]))


def _name_end(
    axes: Axes, points: Curve, name: str, colour: str, side: Literal["top", "bottom"]
) -> None:
    """Write the last value beside the end of a curve."""
    axes.annotate(
        f"{points[1][-1]:.2f} {style.short(name)}".rstrip(),
        xy=(points[0][-1], points[1][-1]),
        xytext=(7, 1 if side == "bottom" else -1),
        textcoords="offset points",
        va=side,
        color=colour,
        fontweight="bold",
        fontsize=8,
        annotation_clip=False,
    )


def _worst_name(silos: Mapping[str, Curve], number: int) -> str:
    """Return the name of the silo with the highest perplexity in round ``number``."""
    values = {
        name: values[rounds.index(number)]
        for name, (rounds, values) in silos.items()
        if number in rounds
    }
    return max(values, key=lambda name: values[name], default="")


def _training_loss(axes: Axes, points: Curve) -> None:
    axes.set_title("Training loss (no evaluation in this run)")
    axes.set_ylabel("nats per token")
    if points[0]:
        axes.plot(*points, color=style.INK, marker="o", label="training loss")
    else:
        style.say(axes, "this journal holds neither a perplexity nor a training loss")
