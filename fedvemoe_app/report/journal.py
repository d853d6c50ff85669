"""The journal of a run: the only thing that tables, pictures and exports read.

A run owns the folder ``<log-dir>/<run name>/``. Rows are appended as rounds end and reach the disk
before the run goes on, so an interrupted run keeps everything up to its last complete round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self, cast

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.report import jsonl
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow, Summary, TaskRow
from fedvemoe_app.report.sound import read_rows

METRICS = (
    "loss_train",
    "ppl",
    "ppl_worst",
    "rouge_l",
    "exact_match",
    "negative_transfer_share",
)
ROUNDS, TASKS, CLIENTS, EVENTS = "rounds.jsonl", "tasks.jsonl", "clients.jsonl", "events.jsonl"
FILES = (ROUNDS, TASKS, CLIENTS, EVENTS)
Curve = tuple[list[int], list[float]]  # rounds, and one value for each
CONFIG, MANIFEST, SUMMARY = "config.json", "manifest.json", "summary.json"


@dataclass(frozen=True, slots=True)
class Run:
    """What a run's folder holds, complete or not; ``summary`` is None until the run has ended."""

    folder: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    rounds: Sequence[RoundRow]
    tasks: Sequence[TaskRow]
    clients: Sequence[ClientRow]
    events: Sequence[EventRow]
    summary: Summary | None

    def settings(self) -> RunConfig:
        """Return the run's settings; RunError naming ``config.json`` where one is damaged."""
        try:
            return RunConfig.from_flat(self.config)
        except SettingError as error:
            raise RunError(f"{self.folder / CONFIG}: {error}; restore the file") from error

    @property
    def first_clients(self) -> dict[str, ClientRow]:
        """Return the first known value of each field of each silo, in order of name."""
        return _by_client(reversed(self.clients))

    @property
    def last_clients(self) -> dict[str, ClientRow]:
        """Return the last known value of each field of each silo, in order of name.

        A last round without evaluation therefore does not hide the scores before it.
        """
        return _by_client(self.clients)

    @property
    def perplexities(self) -> dict[str, Curve]:
        """Return each silo's perplexity over the rounds it was evaluated in, by name."""
        curves: dict[str, Curve] = {}
        for row in self.clients:
            ppl = row.get("ppl")
            if ppl is not None:
                rounds, values = curves.setdefault(row["client"], ([], []))
                rounds.append(row["round"])
                values.append(ppl)
        return dict(sorted(curves.items()))


class Watcher(Protocol):
    """Gets each row once it is on the disk."""

    def round(self, row: RoundRow) -> None:
        """Take one round."""

    def tasks(self, rows: Sequence[TaskRow]) -> None:
        """Take the tasks of one round."""

    def clients(self, rows: Sequence[ClientRow]) -> None:
        """Take the silos of one round."""

    def event(self, row: EventRow) -> None:
        """Take one event."""


class Journal:
    """Writes a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watchers: list[Watcher] = []

    @classmethod
    def create(
        cls,
        log_dir: Path,
        run_name: str | None,
        config: Mapping[str, Any],
        manifest: Mapping[str, Any],
    ) -> Self:
        """Make the run's folder (named after the time where ``run_name`` is None or empty).

        Raises
        ------
        RunError
            Where the folder exists already or cannot be written.
        """
        journal = cls(_new_folder(log_dir, run_name))
        jsonl.write(journal.folder / CONFIG, config)
        jsonl.write(journal.folder / MANIFEST, manifest)
        return journal

    def annotate(self, **facts: Any) -> None:
        """Add to the manifest what is known only once the run is under way."""
        known_so_far = jsonl.read_object(self.folder / MANIFEST) or {}
        jsonl.write(self.folder / MANIFEST, {**known_so_far, **facts})

    def round(self, row: RoundRow) -> None:
        """Append one round."""
        jsonl.append(self.folder / ROUNDS, [row])
        for watcher in self.watchers:
            watcher.round(row)

    def tasks(self, rows: Sequence[TaskRow]) -> None:
        """Append the tasks of one round."""
        jsonl.append(self.folder / TASKS, rows)
        for watcher in self.watchers:
            watcher.tasks(rows)

    def clients(self, rows: Sequence[ClientRow]) -> None:
        """Append the silos of one round."""
        jsonl.append(self.folder / CLIENTS, rows)
        for watcher in self.watchers:
            watcher.clients(rows)

    def event(self, row: EventRow) -> None:
        """Append one event."""
        jsonl.append(self.folder / EVENTS, [row])
        for watcher in self.watchers:
            watcher.event(row)

    def summary(self) -> Summary:
        """Compute the summary from the rows on disk, write ``summary.json`` and return it."""
        summary = summarize(read_run(self.folder))
        jsonl.write(self.folder / SUMMARY, summary)
        return summary


def read_run(folder: Path) -> Run:
    """Read a run's folder, finished or not.

    Raises
    ------
    RunError
        Where ``folder`` holds no run, or one of its files is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder} is not a run: it has no {CONFIG}; give <log-dir>/<run name>")
    return Run(
        folder=folder,
        config=jsonl.read_object(folder / CONFIG) or {},
        manifest=jsonl.read_object(folder / MANIFEST) or {},
        rounds=read_rows(folder / ROUNDS, RoundRow),
        tasks=read_rows(folder / TASKS, TaskRow),
        clients=read_rows(folder / CLIENTS, ClientRow),
        events=read_rows(folder / EVENTS, EventRow),
        summary=cast("Summary | None", jsonl.read_object(folder / SUMMARY)),
    )


def summarize(run: Run) -> Summary:
    """Return first and last values, the best round and the totals of a run."""
    evaluated = [row for row in run.rounds if row.get("ppl") is not None]
    best = min(evaluated, key=lambda row: row["ppl"] or 0.0, default=None)
    last = run.rounds[-1] if run.rounds else None
    summary = Summary(
        run=run.folder.name,
        strategy=last["strategy"] if last else None,
        rounds=last["round"] if last else 0,
        first={metric: known(run.rounds, metric, 0) for metric in METRICS},
        last={metric: known(run.rounds, metric, -1) for metric in METRICS},
        best_round=best["round"] if best else None,
        best_ppl=best["ppl"] if best else None,
        wall_seconds=sum(sum((row.get("seconds") or {}).values()) for row in run.rounds),
        experts_alive=last["k_active"] if last else None,
        silos=len(run.last_clients) or run.manifest.get("silos"),
    )
    if last and "epsilon" in last:
        summary["epsilon"], summary["delta"] = last["epsilon"], run.settings().dp.dp_delta
        summary["outside_epsilon"] = _outside(run)
    return summary


def _outside(run: Run) -> list[str]:
    """Return what left the silos of a noised run without noise."""
    if not run.config.get("dp-evaluation"):
        return []
    by_name = ["reports by name"] if run.config.get("reporting") == "full" else []
    return ["evaluation", *by_name]


def curve(rows: Sequence[RoundRow], metric: str) -> Curve:
    """Return the rounds in which the metric is known, and its values."""
    table = cast("Sequence[Mapping[str, Any]]", rows)
    points = [(row["round"], row[metric]) for row in table if row.get(metric) is not None]
    return [number for number, _ in points], [value for _, value in points]


def known(rows: Sequence[RoundRow], metric: str, position: int) -> float | None:
    """Return the metric's first (0) or last (-1) value among the rows that have one."""
    _, values = curve(rows, metric)
    return values[position] if values else None


def _by_client(rows: Iterable[ClientRow]) -> dict[str, ClientRow]:
    """Lay each silo's rows over one another: a later value wins over an earlier one."""
    merged: dict[str, Any] = {}
    for row in rows:
        known_fields = {key: value for key, value in row.items() if value is not None}
        merged[row["client"]] = {**row, **merged.get(row["client"], {}), **known_fields}
    return dict(sorted(merged.items()))


def _new_folder(log_dir: Path, run_name: str | None) -> Path:
    folder = log_dir / (run_name or f"{datetime.now():%Y%m%d-%H%M%S-%f}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(
            f"the run folder {folder} exists already; choose another run-name"
        ) from error
    except OSError as error:
        raise RunError(
            f"the run folder {folder} cannot be made ({error.strerror}); set log-dir to a folder "
            "you may write to"
        ) from error
    return folder
