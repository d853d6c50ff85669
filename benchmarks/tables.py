"""What a person sees of the benchmarks of compute: their tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.table import Table

from benchmarks.comparison import Result
from benchmarks.phases import PHASES, Stopwatch

NOTES = """\
Ratio: seconds of the other way over seconds of stacked experts, run by run:
median and smallest. k/s: thousands of token rows (padded tokens times
experts) a second. MiB: peak above what was held before. Floor: the least
seconds of the products alone over ours. Error: relative difference.
* not equal work: PEFT cannot decode a mixture; the loop answers per expert."""


def phases(watch: Stopwatch, silos: int) -> Table:
    """Return the table of one round, phase by phase."""
    down, up = (watch.bytes_moved[way] / silos / 1e6 for way in ("down", "up"))
    table = Table(
        title=f"One round, {silos} of the silos ({watch.clock.kind} seconds)",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        caption=f"Per silo: {down:.2f} MB down, {up:.2f} MB up. Token rows: tokens times experts.",
    )
    for heading in ("phase", "seconds", "share", "token rows/s"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    total = sum(watch.seconds.values())
    for phase in PHASES:
        seconds, rows = watch.seconds[phase], watch.token_rows.get(phase)
        rate = f"{rows / seconds:,.0f}" if rows else ""
        table.add_row(phase, f"{seconds:.3f}", f"{seconds / total:.1%}", rate)
    table.add_row("all", f"{total:.3f}", "", "", end_section=True)
    return table


def comparison(title: str, results: Sequence[Result]) -> Table:
    """Return the table of stacked experts against other ways."""
    table = Table(
        title=title,
        caption=NOTES,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("work", no_wrap=True)
    table.add_column("against", no_wrap=True)
    for heading in ("ratio", "min", "k/s", "floor", "MiB", "other", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for number, way in enumerate(result.pairs):
            table.add_row(*_cells(result, way, first=number == 0))
    return table


def _cells(result: Result, way: str, *, first: bool) -> tuple[str, ...]:
    case, pairs = result.case, result.pairs[way]
    ours, error = median(pairs.ours), result.errors.get(way)
    mine = (
        f"{case.tokens / ours / 1000:.1f}",
        f"{result.floor / ours:.0%}" if result.floor else "",
        _mebibytes(result.memory["ours"]),
    )
    return (
        case.name if first else "",
        way + ("" if way in case.disagreements else "*"),
        f"{pairs.speed_up:.2f}",
        f"{min(pairs.ratios):.2f}",
        *(mine if first else ("", "", "")),
        _mebibytes(result.memory[way]),
        "" if error is None else f"{error:.0e}",
    )


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"
