"""The tables of a run's page: rounds, silos, tasks, events, cost and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvemoe_app.config import RunConfig
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.markup import Markup, joined, tag
from fedvemoe_app.report.rows import TaskRow
from fedvemoe_app.report.summary import main_expert
from fedvemoe_app.report.wording import UNKNOWN, number, size

FEW_EVENTS = 200  # a long run with dropouts has thousands; all of them are in events.jsonl


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, where its value stands in a row, and how it is written."""

    heading: str
    value: Callable[[Any], Any]
    write: Callable[[Any], str] | None = None  # None: a text

    def cell(self, row: Any) -> Markup:
        """Return the cell; a number carries its value for sorting."""
        value = self.value(row)
        if self.write is None:
            kind = "text" if len(str(value)) > 40 else "name"
            return tag("td", UNKNOWN if value in (None, "") else value, class_=kind)
        shown = UNKNOWN if value is None else self.write(value)
        return tag("td", shown, class_="number", data_v=value)

    def head(self) -> Markup:
        """Return the heading, a button that sorts."""
        kind = None if self.write is None else "number"
        return tag("th", tag("button", self.heading, type="button"), scope="col", class_=kind)


def table(columns: Sequence[Column], rows: Iterable[Any]) -> Markup:
    """Return a table that sorts by any of its columns."""
    head = tag("thead", tag("tr", *(column.head() for column in columns)))
    lines = (tag("tr", *(column.cell(row) for column in columns)) for row in rows)
    return tag("div", tag("table", head, tag("tbody", *lines)), class_="wide", tabindex=0)


def field(heading: str, key: str, digits: int | None = None) -> Column:
    """Return the column of a field: a text, or a number with ``digits`` decimals."""
    write = None if digits is None else (lambda value: number(value, digits))
    return Column(heading, lambda row: row.get(key), write)


SCORES = (
    field("ppl", "ppl", 3),
    field("ROUGE-L", "rouge_l", 1),
    field("exact match", "exact_match", 1),
)
HARM = Column("negative transfer", lambda row: row.get("negative_transfer"), lambda v: f"{v:+.3f}")


def rounds(run: Run) -> Markup:
    """Return one line per round."""
    columns = [
        field("round", "round", 0),
        SCORES[0],
        field("worst silo", "ppl_worst", 3),
        *SCORES[1:],
        Column("worse off", lambda r: r.get("negative_transfer_share"), lambda v: f"{v:.0%}"),
        field("training loss", "loss_train", 3),
        field("experts", "k_active", 0),
        Column("to the server", lambda row: row.get("bytes_up"), size),
        Column("to the silos", lambda row: row.get("bytes_down"), size),
        Column("seconds", lambda r: sum((r.get("seconds") or {}).values()), lambda v: f"{v:.1f}"),
    ]
    return table(columns, run.rounds)


def silos(run: Run) -> Markup:
    """Return one line per silo, with its last known scores."""
    columns = [
        field("silo", "client"),
        field("category", "category"),
        *SCORES,
        HARM,
        Column("main expert", lambda r: (main_expert(r) or [None])[0], str),
        Column("its weight", lambda r: (main_expert(r) or [None, None])[1], lambda v: f"{v:.2f}"),
        Column("tasks", lambda row: ", ".join(row.get("tasks") or ())),
    ]
    return table(columns, run.last_clients.values())


def tasks(run: Run) -> Markup:
    """Return one line per task, with its first and last scores."""
    first, last = _by_task(reversed(run.tasks)), _by_task(run.tasks)
    columns = [
        field("task", "task"),
        field("category", "category"),
        Column("first ppl", lambda row: first[row["task"]]["ppl"], lambda v: number(v, 3)),
        *SCORES,
        field("tokens", "tokens", 0),
        field("examples", "examples", 0),
        field("round", "round", 0),
    ]
    return table(columns, [last[name] for name in sorted(last)])


def _by_task(rows: Iterable[TaskRow]) -> dict[str, TaskRow]:
    return {row["task"]: row for row in rows if row.get("ppl") is not None}


def events(run: Run) -> Markup:
    """Return one line per event with its reason; of very many, the last ones."""
    columns = [
        field("round", "round", 0),
        field("event", "event"),
        Column("experts", lambda row: ", ".join(map(str, row.get("slots") or ()))),
        field("why", "why"),
        Column("numbers", lambda row: _numbers(row.get("numbers") or {})),
    ]
    shown = table(columns, run.events[-FEW_EVENTS:])
    if len(run.events) <= FEW_EVENTS:
        return shown
    note = f"The last {FEW_EVENTS} of {len(run.events)} events; all are in events.jsonl."
    return joined(tag("p", note, class_="soft"), shown)


def _numbers(numbers: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in numbers.items()
    )


def cost(run: Run) -> Markup:
    """Return seconds by phase over the whole run, and bytes both ways."""
    spent: dict[str, float] = {}
    for row in run.rounds:
        for phase, seconds in (row.get("seconds") or {}).items():
            spent[phase] = spent.get(phase, 0.0) + (seconds or 0.0)
    total = sum(spent.values())
    columns = [
        Column("phase", lambda item: item[0]),
        Column("seconds", lambda item: item[1], lambda v: f"{v:.1f}"),
        Column("share", lambda item: item[1] / total if total else None, lambda v: f"{v:.0%}"),
        Column("a round", lambda item: item[1] / len(run.rounds), lambda v: f"{v:.2f}"),
    ]
    up = sum(row.get("bytes_up") or 0 for row in run.rounds)
    down = sum(row.get("bytes_down") or 0 for row in run.rounds)
    sent = f"{size(up)} to the server and {size(down)} to the silos, over all rounds and silos."
    return joined(tag("p", sent), table(columns, spent.items()))


def settings(run: Run) -> Markup:
    """Return the settings that differ from their defaults, then all the others, folded."""
    defaults = RunConfig().to_flat()
    given = {key: value for key, value in run.config.items() if value != defaults.get(key)}
    rest = {key: value for key, value in run.config.items() if key not in given}
    columns = [
        Column("setting", lambda item: item[0]),
        Column("value", lambda item: _value(item[1])),
        Column("default", lambda item: _value(defaults.get(item[0]))),
    ]
    changed = table(columns, given.items()) if given else tag("p", "Every setting is the default.")
    if not rest:
        return changed
    count = "1 setting at its default" if len(rest) == 1 else f"{len(rest)} settings at defaults"
    others = tag("summary", count)
    return joined(changed, tag("details", others, table(columns[:2], rest.items())))


def facts(run: Run) -> Markup:
    """Return the manifest: versions, machine, fingerprints."""
    flat: dict[str, Any] = {}
    for key, value in run.manifest.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}: {name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    columns = [
        Column("fact", lambda item: item[0]),
        Column("value", lambda item: _value(item[1])),
    ]
    return table(columns, flat.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
