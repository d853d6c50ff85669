"""What a study's runs came to: a row for each variant, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rich import box
from rich.table import Table

from fedvemoe_app.evaluation.transfer import negative_transfer, read_baselines, summarize
from fedvemoe_app.report.journal import Run, read_run

STRUCTURE = ("birth", "accept", "close", "prune", "merge")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: perplexities of the last evaluation, and what became of the bank."""

    ppl: float
    worst: float
    harmed: float | None
    worst_harm: float | None
    experts: int
    last_event: int
    megabytes: float
    seconds: float


def outcome(run: Run, local: Mapping[str, float]) -> Outcome:
    """Return what a run came to; ``local`` is each silo's own early-stopped perplexity."""
    last = next(row for row in reversed(run.rounds) if row["ppl"])
    silos = {name: row["ppl"] for name, row in run.last_clients.items()}
    harm = summarize(negative_transfer(silos, local).values())
    events = [row["round"] for row in run.events if row["event"] in STRUCTURE]
    return Outcome(
        ppl=last["ppl"] or math.nan,
        worst=last["ppl_worst"] or math.nan,
        harmed=harm.share if harm else None,
        worst_harm=harm.worst if harm else None,
        experts=run.rounds[-1]["k_active"],
        last_event=max(events, default=0),
        megabytes=sum(row["bytes_up"] + row["bytes_down"] for row in run.rounds) / 1e6,
        seconds=sum(sum(row["seconds"].values()) for row in run.rounds),
    )


def table(title: str, runs: Mapping[tuple[str, int], Path]) -> Table:
    """Return the table of a study; runs by label and seed."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for heading in ("seeds", "ppl", "worst", "harmed", "worst harm", "K", "last", "MB", "s"):
        shown.add_column(heading, justify="right")
    local = {seed: _baselines(path) for (label, seed), path in runs.items() if label == "local"}
    for label in dict.fromkeys(label for label, _ in runs):
        found = [
            outcome(read_run(path), local.get(seed, {}))
            for (other, seed), path in runs.items()
            if other == label
        ]
        shown.add_row(label, str(len(found)), *_cells(found))
    return shown


def _baselines(folder: Path) -> dict[str, float]:
    return read_baselines(folder / "local_baselines.json").references()


def _cells(found: Sequence[Outcome]) -> tuple[str, ...]:
    return (
        _spread([one.ppl for one in found]),
        _spread([one.worst for one in found]),
        _mean([one.harmed for one in found], "{:.0%}"),
        _mean([one.worst_harm for one in found], "{:+.3f}"),
        ",".join(str(one.experts) for one in found),
        ",".join(str(one.last_event) for one in found),
        f"{mean(one.megabytes for one in found):.0f}",
        f"{mean(one.seconds for one in found):.0f}",
    )


def _spread(values: Sequence[float]) -> str:
    spread = f" ±{stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(mean(known)) if known else ""
