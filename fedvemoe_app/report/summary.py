"""The table a run ends with: silos, totals, and whether the planted domains were found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedvemoe_app.report.journal import Run, summarize
from fedvemoe_app.report.rows import ClientRow
from fedvemoe_app.report.wording import UNKNOWN, change, duration, number


def print_summary(
    run: Run, console: Console, pictures: Sequence[Path] = (), page: Path | None = None
) -> None:
    """Print the silos, the totals, where the run lies, which pictures were drawn, and the page."""
    if run.last_clients:
        console.print(_silos(run))
    console.print(_totals(run))
    if run.summary is None:
        console.print("[bold]This run has not ended: the figures are as far as it came.[/bold]")
    console.print(f"run       {escape(str(run.folder))}", soft_wrap=True, highlight=False)
    for path in pictures:
        console.print(f"picture   {escape(str(path))}", soft_wrap=True, highlight=False)
    if page is not None:
        console.print(f"page      {escape(str(page))}", soft_wrap=True, highlight=False)


def recovery(run: Run) -> float | None:
    """Return how well main experts tell the planted domains apart, in [0, 1].

    Normalised mutual information between each silo's main expert and its ``domain``; None where
    no silo reports both.
    """
    rows = [row for row in run.last_clients.values() if row.get("domain")]
    pairs = [(main[0], row["domain"]) for row in rows if (main := main_expert(row))]
    if not pairs:
        return None
    experts, domains = zip(*pairs, strict=True)
    from sklearn.metrics import normalized_mutual_info_score  # a seventh of a command's start

    return float(normalized_mutual_info_score(domains, experts))


def main_expert(row: ClientRow) -> tuple[int, float] | None:
    """Return the slot with the largest responsibility and its weight; None where not reported."""
    weights = row.get("responsibilities")
    if not weights:
        return None
    slot = max(range(len(weights)), key=lambda k: weights[k] or 0.0)
    return slot, weights[slot] or 0.0


def _plain(title: str) -> Table:
    """Return a table that fits a terminal of 80 columns, with room for seven of its own."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _silos(run: Run) -> Table:
    table = _plain("Silos")
    first, last = run.first_clients, run.last_clients
    compared = any(row.get("negative_transfer") is not None for row in last.values())
    for name in ("silo", "category"):
        table.add_column(name, no_wrap=True)
    for name in ("ppl", "ROUGE-L", "exact\nmatch", "main\nexpert"):
        table.add_column(name, justify="right", no_wrap=True)
    if compared:
        table.add_column("negative\ntransfer", justify="right", no_wrap=True)
    for name, row in last.items():
        main = main_expert(row)
        harm = number(row.get("negative_transfer"), 3, sign=True)
        table.add_row(
            escape(name),
            escape(row.get("category") or UNKNOWN),
            change(first[name].get("ppl"), row.get("ppl")),
            number(row.get("rouge_l"), 1),
            number(row.get("exact_match"), 1),
            f"{main[0]} ({main[1]:.2f})" if main else UNKNOWN,
            *([harm] if compared else []),
        )
    return table


def _totals(run: Run) -> Table:
    summary = summarize(run)
    first, last = summary["first"], summary["last"]
    table = _plain("Run")
    table.show_header = False
    rows = {
        "strategy": summary["strategy"] or UNKNOWN,
        "rounds": str(summary["rounds"]),
        "silos": number(summary["silos"], 0),
        "ppl, all silos": change(first["ppl"], last["ppl"]),
        "ppl, worst silo": change(first["ppl_worst"], last["ppl_worst"]),
        "ROUGE-L": change(first["rouge_l"], last["rouge_l"], digits=1),
        "exact match": change(first["exact_match"], last["exact_match"], digits=1),
        "negative transfer": _share(last["negative_transfer_share"]),
        "experts alive": number(summary["experts_alive"], 0),
        "domains found (NMI)": number(recovery(run), 2),
        "wall time": duration(summary["wall_seconds"]),
    }
    if "epsilon" in summary:
        outside = " and ".join(summary["outside_epsilon"])
        note = f"; not covered: {outside}" if outside else ""
        rows["epsilon"] = f"{summary['epsilon']:.3g} at delta {summary['delta']:g}{note}"
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _share(value: float | None) -> str:
    return "no local baseline" if value is None else f"{100 * value:.0f} % of silos"
