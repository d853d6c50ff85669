"""Functions that a worker calls in tests. Its process imports this file."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

calls = count(1)


def own(parts: list[bytes]) -> list[bytes]:
    """Return who answers, for which time, and what was asked."""
    return [str(os.getpid()).encode(), str(next(calls)).encode(), *parts]


def picky(parts: list[bytes]) -> list[bytes]:
    """Fail on what it does not like."""
    if parts == [b"bad"]:
        raise ValueError("bad things do not go")
    return own(parts)


def slow(parts: list[bytes]) -> list[bytes]:
    """Say in a file that work began; be done when another file is there."""
    begun = Path(parts[0].decode())
    begun.write_text(str(os.getpid()))
    while not begun.with_suffix(".end").exists():
        time.sleep(0.01)
    return own([])


def deadly(parts: list[bytes]) -> list[bytes]:
    """Leave without a word."""
    if parts == [b"die"]:
        raise SystemExit(3)
    return own(parts)


def gone(parts: list[bytes]) -> list[bytes]:
    """Leave over any message."""
    raise SystemExit(3)
