"""Where rows come from: a name such as ``./tasks`` or ``owner/name`` becomes a reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedvemoe_app.data.reading.community import read_task
from fedvemoe_app.data.reading.hub import read_csv, read_hub, read_jsonl, read_list, read_parquet
from fedvemoe_app.data.reading.records import Entry, Problem, Reader, Row
from fedvemoe_app.data.reading.textfile import (
    SUFFIXES,
    document,
    file_split,
    folder_split,
    lines,
    task_files,
)
from fedvemoe_app.data.task import Split
from fedvemoe_app.errors import DataError

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
ROW_READERS = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}


def reader_of(source: str, streaming: bool) -> Reader:
    """Return the reader of a folder, a file or a dataset of the hub.

    Raises
    ------
    DataError
        If ``source`` is a path where nothing lies.
    """
    path = Path(source).expanduser()
    if path.exists():
        return Folder(path)
    if not HUB_NAME.fullmatch(source) or path.suffix in SUFFIXES or path.parent.exists():
        raise DataError(
            f"{source}: no such folder or file (looked in {Path.cwd()}); set dataset-name, or what "
            "named it, to a folder of task files, a hub name such as owner/name, or builtin:tasks"
        )
    return lambda wanted: _only(read_hub(source, streaming), wanted)


@dataclass(slots=True)
class Folder:
    """A reader of task files that remembers, for its next pass, which file holds which tasks."""

    root: Path
    tasks_in: dict[Path, set[str]] = field(default_factory=dict)

    def __call__(self, wanted: frozenset[str] | None = None) -> Iterator[Entry]:
        """Yield the rows of every file that may hold a wanted task."""
        for path in task_files(self.root):
            known = self.tasks_in.get(path)
            if wanted is None or known is None or known & wanted:
                yield from _only(self._file(path), wanted)

    def _file(self, path: Path) -> Iterator[Entry]:
        names: set[str] = set()
        for entry in usable(read_file(path, self.root), path):
            if isinstance(entry, Row):
                names.add(entry.heading.task)
            yield entry
        self.tasks_in[path] = names


def _only(entries: Iterable[Entry], wanted: frozenset[str] | None) -> Iterator[Entry]:
    for entry in entries:
        if wanted is None or isinstance(entry, Problem) or entry.heading.task in wanted:
            yield entry


def read_file(path: Path, root: Path) -> Iterator[Entry]:
    """Yield the rows of one file, in whichever layout it is.

    Raises
    ------
    DataError
        If the file as a whole cannot be read.
    """
    folder = folder_split(path, root)
    split = folder or file_split(path)
    suffix = path.suffix.lower()
    if suffix in ROW_READERS:
        return ROW_READERS[suffix](path, split)
    if suffix == ".json":
        return _read_json(path, folder, split)
    raise DataError(f"{path}: unknown kind of file; task files end in {', '.join(SUFFIXES)}")


def _read_json(path: Path, folder: Split | None, split: Split | None) -> Iterator[Entry]:
    if _first_line_is_row(path):
        return read_jsonl(path, split)
    content = document(path)
    if isinstance(content, Mapping):
        is_row = "task_name" in content
        return read_list([content], path, split) if is_row else read_task(content, path, folder)
    if isinstance(content, list):
        return read_list(content, path, split)
    raise DataError(f"{path}: must hold a task (an object) or a list of rows, not {content!r:.40}")


def _first_line_is_row(path: Path) -> bool:
    try:
        first = json.loads(next(iter(lines(path)), ""))
    except json.JSONDecodeError:
        return False
    return isinstance(first, dict) and "task_name" in first


def usable(entries: Iterable[Entry], path: Path) -> Iterator[Entry]:
    """Pass entries on; a file with not one good row is an error rather than many problems.

    Raises
    ------
    DataError
        After the last entry, if none was a row.
    """
    rows, problems, first = 0, 0, ""
    for entry in entries:
        if isinstance(entry, Row):
            rows += 1
        else:
            problems += 1
            first = first or str(entry)
        yield entry
    if not rows:
        found = f"not one of its {problems} entries can be used; first: {first}"
        raise DataError(f"{path}: {found if problems else 'holds no rows; fill or remove it'}")
