"""JSON on disk: whole files are replaced in one step, lines are appended in one write.

A reader therefore never sees half a file, and at most the last line of a log can be torn.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedvemoe_app.errors import RunError


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's own types: arrays as lists, NaN and infinities as None.

    Raises
    ------
    TypeError
        Where a value has no JSON form.
    """
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write(path: Path, value: Any) -> None:
    """Write one object to ``path``: the old file or the new one, never a part."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    replace(path, f"{text}\n")


def replace(path: Path, text: str) -> None:
    """Replace the content of ``path`` in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append one line per row in a single write; with ``sync``, wait for the disk."""
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    if not lines:
        return
    with path.open("ab", buffering=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        if sync:
            os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Read every complete line; a file that is not there has none, a torn last line is left out.

    Raises
    ------
    RunError
        Where a line other than a torn last one is not a JSON object.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunError(f"{path}, line {number} is not a JSON object; remove the line")
    return row
