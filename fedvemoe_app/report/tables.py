"""A run's journal as flat tables for other programs: CSV, Parquet or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedvemoe_app.errors import RunError
from fedvemoe_app.report.journal import Run

FORMATS = ("csv", "parquet", "jsonl")


def write_tables(run: Run, folder: Path, kind: str) -> list[Path]:
    """Write rounds, tasks, clients and events, each where it has a row; return the paths.

    Raises
    ------
    RunError
        Where the format is not known or the folder cannot be written.
    """
    if kind not in FORMATS:
        raise RunError(f'--format "{kind}" is not known: choose from {", ".join(FORMATS)}')
    rows = {
        "rounds": run.rounds,
        "tasks": run.tasks,
        "clients": run.clients,
        "events": run.events,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            _write([flat(row) for row in table], folder / f"{name}.{kind}", kind)
            for name, table in rows.items()
            if table
        ]
    except OSError as error:
        raise RunError(f"no table can be written to {folder}: {error.strerror}") from error


def flat(row: Any) -> dict[str, Any]:
    """Return a row with one plain value per column.

    Numbers per slot or bucket become columns ``mass_00, mass_01, ...``, seconds per phase
    ``seconds_train``; short lists become a text with commas, numbers of an event JSON.
    """
    return dict(pair for key, value in row.items() for pair in _columns(key, value))


def _columns(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if key == "numbers":
            yield key, json.dumps(value, ensure_ascii=False)
        else:
            yield from ((f"{key}_{name}", inner) for name, inner in value.items())
    elif isinstance(value, list) and key in ("active", "slots", "tasks"):
        yield key, ",".join(map(str, value))
    elif isinstance(value, list):
        yield from ((f"{key}_{place:02d}", inner) for place, inner in enumerate(value))
    elif value is not None:
        yield key, value


def _write(rows: list[dict[str, Any]], path: Path, kind: str) -> Path:
    import pandas as pd

    frame = pd.DataFrame(rows)
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    return path
