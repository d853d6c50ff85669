"""A comparison as files: Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import jsonl, plot_compare, style
from fedvemoe_app.report.compare import (
    METRICS,
    Comparison,
    Entry,
    Metric,
    Spread,
    spread,
    task_perplexities,
)
from fedvemoe_app.report.wording import UNKNOWN

Row = Sequence[str]
NOTE = (
    "Mean and standard deviation over runs (one per seed), at the last evaluated round. Negative "
    "transfer is in nats per token; above 0 a silo is worse off than alone."
)


def markdown(found: Comparison) -> str:
    """Return the tables: groups, differences against the reference, tasks."""
    parts = ["# Comparison", NOTE, _table(_groups(found))]
    if found.reference is not None and len(found.groups) > 1:
        parts += [
            f"## Against {_plain(found.reference)}",
            "Difference for equal seeds, mean and standard deviation; in brackets, in how many of "
            "them the run is better. Perplexities: difference of logarithms, nats per token.",
            _table(_differences(found)),
        ]
    tasks = _tasks(found)
    if len(tasks) > 1:
        parts += ["## Perplexity by task", _table(tasks)]
    return "\n\n".join(parts) + "\n"


def write(found: Comparison, folder: Path) -> list[Path]:
    """Write the tables and the picture into ``folder`` and return their paths.

    Raises
    ------
    RunError
        Where the folder cannot be written.
    """
    texts = {
        "compare.md": markdown(found),
        "compare.csv": runs_csv(found),
        "compare_tasks.csv": tasks_csv(found),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            jsonl.replace(folder / name, text)
        picture = style.save(plot_compare.draw(found), folder / "compare.png")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    return [*(folder / name for name in texts), picture]


def runs_csv(found: Comparison) -> str:
    """Return one line per run with every metric."""
    head = ["run", "group", "seed", *(metric.key for metric in METRICS)]
    lines = [
        [entry.run.folder.name, entry.group, entry.seed, *entry.values.values()]
        for entry in found.entries
    ]
    return _csv([head, *lines])


def tasks_csv(found: Comparison) -> str:
    """Return one line per run and task with its perplexity."""
    lines = [
        [entry.run.folder.name, entry.group, entry.seed, task, ppl]
        for entry in found.entries
        for task, ppl in task_perplexities(entry.run).items()
    ]
    return _csv([["run", "group", "seed", "task", "ppl"], *lines])


def _groups(found: Comparison) -> list[Row]:
    metrics = [metric for metric in METRICS if _is_known(found, metric)]
    head = ["runs of", "n", *(metric.heading for metric in metrics)]
    return [
        head,
        *(
            [
                name,
                str(len(entries)),
                *(_cell(spread(e.values[m.key] for e in entries), m) for m in metrics),
            ]
            for name, entries in found.groups.items()
        ),
    ]


def _differences(found: Comparison) -> list[Row]:
    metrics = [metric for metric in METRICS if _is_known(found, metric)]
    shown = [m for m in metrics if not m.neutral and _is_paired(found, m)]
    head = ["runs of", *(metric.heading for metric in shown)]
    others = [name for name in found.groups if name != found.reference]
    rows = [[n, *(_difference(found.differences(n, m), m) for m in shown)] for n in others]
    return [head, *rows]


def _is_paired(found: Comparison, metric: Metric) -> bool:
    return any(found.differences(name, metric) for name in found.groups)


def _difference(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return UNKNOWN
    wins = sum(value > 0 if metric.higher_is_better else value < 0 for value in values)
    signed = Metric(metric.key, metric.heading, max(1, metric.digits), sign=True)
    return f"{_cell(spread(values), signed)} ({wins}/{len(values)})"


def _tasks(found: Comparison) -> list[Row]:
    values = {id(entry): task_perplexities(entry.run) for entry in found.entries}
    names = sorted({task for tasks in values.values() for task in tasks})
    ppl = METRICS[0]

    def cell(task: str, entries: Sequence[Entry]) -> str:
        return _cell(spread(values[id(entry)].get(task) for entry in entries), ppl)

    rows = [[task, *(cell(task, entries) for entries in found.groups.values())] for task in names]
    return [["task", *found.groups], *rows]


def _is_known(found: Comparison, metric: Metric) -> bool:
    return any(entry.values[metric.key] is not None for entry in found.entries)


def _cell(value: Spread | None, metric: Metric) -> str:
    if value is None:
        return UNKNOWN
    sign = "+" if metric.sign else ""
    mean = f"{value.mean:{sign}.{metric.digits}f}"
    if value.deviation is None:
        return mean
    return f"{mean} \N{PLUS-MINUS SIGN} {value.deviation:.{metric.digits}f}"


def _table(rows: Sequence[Row]) -> str:
    """Return a Markdown table whose columns line up as text too."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(_padded(row, widths)) + " |"
        for row in [cells[0], ["-" * width for width in widths], *cells[1:]]
    ]
    rule = "|" + "|".join(_rule(place, width) for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[2:]])


def _padded(row: Row, widths: Sequence[int]) -> list[str]:
    """Return the first cell flush left and the others flush right."""
    first, *rest = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]


def _rule(place: int, width: int) -> str:
    return "-" * (width + 2) if place == 0 else "-" * (width + 1) + ":"


def _plain(text: str) -> str:
    """Return ``text`` so that no name can end a cell or begin markup."""
    safe = text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return safe.replace("<", "&lt;")


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
