"""A journal that goes on: from a position, as if nothing had been written after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import jsonl
from fedvemoe_app.report.journal import CONFIG, FILES, SUMMARY, Journal, read_run
from fedvemoe_app.report.progress import FILE as PROGRESS

Position = Mapping[str, int]
"""Bytes of rows by file."""


def position_of(folder: Path) -> dict[str, int]:
    """Return how many bytes of rows each file of a run has."""
    files = {name: folder / name for name in FILES}
    return {name: file.stat().st_size if file.exists() else 0 for name, file in files.items()}


def reopen(folder: Path, position: Position, config: Mapping[str, Any]) -> Journal:
    """Continue a run from a ``position``; later rows, summary and progress are removed.

    Raises
    ------
    RunError
        Where ``folder`` holds no run, or rows before the position are missing.
    """
    read_run(folder)
    sizes = position_of(folder)
    short = [name for name in FILES if sizes[name] < position[name]]
    if short:
        raise RunError(f"{folder / short[0]} lacks rows that were written: restore the file")
    for name in FILES:
        if sizes[name] > position[name]:
            kept = (folder / name).read_bytes()[: position[name]]
            jsonl.replace(folder / name, kept.decode())
    for ending in (SUMMARY, PROGRESS):
        (folder / ending).unlink(missing_ok=True)
    jsonl.write(folder / CONFIG, config)
    return Journal(folder)
