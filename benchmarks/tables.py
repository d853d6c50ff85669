"""What a person sees of a benchmark: two tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.table import Table

from benchmarks.comparison import Result
from benchmarks.phases import PHASES, Stopwatch

NOTES = """\
Ratio: seconds of the adapter loop over seconds of stacked experts, pair by
pair: median and smallest. k/s: thousands of token rows (padded tokens times
experts) a second. MiB: peak above what was held before. Error: relative
difference. 1 pass: the loop's gradients switched on by hand, see peft_loop.
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


def comparison(results: Sequence[Result]) -> Table:
    """Return the table of stacked experts against the adapter loop."""
    table = Table(
        title="Stacked experts against a loop over PEFT adapters",
        caption=NOTES,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("work", no_wrap=True)
    for heading in ("ratio", "min", "k/s", "loop", "MiB", "loop", "error"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(*_cells(result))
    return table


def _cells(result: Result) -> tuple[str, ...]:
    case, pairs = result.case, result.pairs
    return (
        case.name + ("" if case.disagreement else "*"),
        f"{pairs.speed_up:.2f}",
        f"{min(pairs.ratios):.2f}",
        *(f"{case.tokens / median(seconds) / 1000:.1f}" for seconds in (pairs.ours, pairs.loop)),
        *(_mebibytes(peak) for peak in (result.memory_ours, result.memory_loop)),
        "" if result.error is None else f"{result.error:.0e}",
    )


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.1f}"
