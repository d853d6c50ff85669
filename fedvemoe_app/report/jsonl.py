"""JSON on disk: whole files are replaced in one step, lines are appended in one write.

A reader therefore never sees half a file, and at most the last line of a log can be torn. Where the
disk refuses, what was there before stays as it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from fedvemoe_app.errors import RunError
from fedvemoe_app.jsontext import parse


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's own types: arrays as lists, NaN and infinities as None.

    Raises
    ------
    TypeError
        Where a value has no JSON form.
    """
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _text(value: str) -> str:
    """Return text that has a form in UTF-8: JSON from elsewhere may hold halves of a character."""
    return value.encode("utf-8", "replace").decode("utf-8")


def write(path: Path, value: Any) -> None:
    """Write one object to ``path``: the old file or the new one, never a part."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    replace(path, f"{text}\n")


def replace(path: Path, text: str) -> None:
    """Replace the content of ``path`` in one step; RunError where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def append(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append one line per row in a single write; with ``sync``, wait for the disk.

    Raises
    ------
    RunError
        Where the disk does not take all of it; then the file is as it was.
    """
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    if not lines:
        return
    with _explained(path), path.open("ab", buffering=0) as file:
        _append(file, "".join(f"{line}\n" for line in lines).encode())
        if sync:
            os.fsync(file.fileno())


def _append(file: FileIO, data: bytes) -> None:
    """Write all of ``data`` or nothing: a full disk may take half a line without an error."""
    before, left = file.tell(), memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}; free some space there or make "
            "it writable. What was written before is kept"
        ) from error


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


def read_object(path: Path) -> dict[str, Any] | None:
    """Read what ``write`` wrote; None where there is no such file.

    Raises
    ------
    RunError
        Where it is no JSON object.
    """
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); restore it or remove it") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object; restore it or remove it")
    return content


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunError(f"{path}, line {number} is not a JSON object; remove the line")
    return row
