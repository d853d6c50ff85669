"""Reading text files so that what cannot be read is named by file, line, column or byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from fedvemoe_app.data.task import Split
from fedvemoe_app.errors import DataError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
# What the `datasets` library writes next to the rows: descriptions, not tasks.
DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json"})
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
LFS_POINTER = "version https://git-lfs"


def task_files(root: Path) -> list[Path]:
    """Return the files that may hold tasks, sorted; ``root`` may be a single file.

    Where the folder has a sub-folder ``tasks`` (as the community repository does), only that is
    read. Hidden files and folders are left out.

    Raises
    ------
    DataError
        If there are none.
    """
    if root.is_file():
        return [root]
    top = root / "tasks" if (root / "tasks").is_dir() else root
    found = sorted(path for path in top.rglob("*") if _may_hold_tasks(path, top))
    if not found:
        raise DataError(
            f"{top}: no task files in this folder; put *.json task files in it, or rows with "
            f"task_name, definition, inputs, targets as {', '.join(SUFFIXES)}"
        )
    return found


def _may_hold_tasks(path: Path, top: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(top).parts)
    named = path.suffix.lower() in SUFFIXES and path.name not in DESCRIPTIONS
    return named and not hidden and path.is_file()


def folder_split(path: Path, root: Path) -> Split | None:
    """Return the split that the nearest sub-folder of ``root`` names, if any does."""
    if path == root:
        return None
    for part in reversed(path.relative_to(root).parts[:-1]):
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    return None


def file_split(path: Path) -> Split | None:
    """Return the split in a name such as ``train.jsonl`` or ``test-00000-of-00001.parquet``."""
    words = re.split(r"[-_.]", path.stem.lower())
    return SPLIT_NAMES.get(words[0]) or SPLIT_NAMES.get(words[-1])


def decoded(raw: bytes, path: Path, offset: int = 0) -> str:
    """Decode UTF-8 (a leading byte-order mark is dropped).

    Raises
    ------
    DataError
        Naming the file and the offset of the first byte that is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {offset + error.start} ({error.reason}); "
            "convert the file to UTF-8"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def lines(path: Path) -> Iterator[str]:
    """Yield the file's lines, with their ends, one in memory at a time."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
    with stream:
        offset = 0
        for raw in stream:
            line = decoded(raw, path, offset)
            if offset == 0:
                _refuse_lfs_pointer(line, path)
            yield line
            offset += len(raw)


def whole(path: Path) -> str:
    """Return the file's text."""
    return "".join(lines(path))


def document(path: Path) -> object:
    """Return what a JSON file holds.

    Raises
    ------
    DataError
        Naming the file, line and column where the JSON is broken.
    """
    try:
        return json.loads(whole(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error


def _refuse_lfs_pointer(line: str, path: Path) -> None:
    if line.startswith(LFS_POINTER):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` there")
