"""What a check finds: how it is, what was looked at, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table; ``fix`` is empty where all is well."""

    status: Status
    what: str
    fix: str = ""


def ok(what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("ok", what)


def warning(what: str, fix: str) -> Finding:
    """Return that a run is possible, and what would be better."""
    return Finding("warning", what, fix)


def failed(what: str, fix: str) -> Finding:
    """Return that no run is possible, and what to do."""
    return Finding("failed", what, fix)


def gigabytes(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / GIGABYTE:.1f} GB" if size else "little"
