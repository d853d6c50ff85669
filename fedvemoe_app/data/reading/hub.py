"""Rows in the hub's layout (``task_name, definition, inputs, targets``), from files or the hub.

Optional columns are ``id`` and ``categories``. Files are read here, line by line, so that a
broken one is named to the column, and so that nothing leaves the machine:
``datasets.load_dataset``, through which hub names go, calls the hub even for local files.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fedvemoe_app.data.reading.records import (
    BadRecordError,
    Entry,
    Heading,
    Problem,
    optional_texts,
    question_row,
    text_field,
)
from fedvemoe_app.data.reading.textfile import SPLIT_NAMES, lines
from fedvemoe_app.data.task import Split
from fedvemoe_app.errors import DataError

PARQUET_BATCH = 256  # rows in memory at a time


def row_entry(record: object, split: Split | None, where: str) -> Entry:
    """Return the row that a record states, or the problem that keeps it from being one."""
    if not isinstance(record, Mapping):
        return Problem(where, f"must be an object with task_name, ..., not {record!r:.40}")
    try:
        heading = Heading(
            task=text_field(record, "task_name"),
            definition=text_field(record, "definition"),
            categories=optional_texts(record, "categories"),
            split=split,
        )
        return question_row(record, heading, "inputs", "targets", where)
    except BadRecordError as error:
        return Problem(where, str(error))


def read_list(records: Iterable[object], path: Path, split: Split | None) -> Iterator[Entry]:
    """Yield the rows of a JSON list."""
    for number, record in enumerate(records):
        yield row_entry(record, split, f"{path}, row {number}")


def read_jsonl(path: Path, split: Split | None) -> Iterator[Entry]:
    """Yield one row per line; a line that is not JSON is a problem of that line alone."""
    for number, line in enumerate(lines(path), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield Problem(where, f"broken JSON at column {error.colno}: {error.msg}")
        else:
            yield row_entry(record, split, where)


def read_csv(path: Path, split: Split | None) -> Iterator[Entry]:
    """Yield one row per record; several references of a question stand in several records.

    Raises
    ------
    DataError
        If the quoting is broken, naming the last good line.
    """
    csv.field_size_limit(sys.maxsize)  # a long input is no error
    table = csv.DictReader(lines(path), strict=True)
    try:
        for record in table:
            yield row_entry(record, split, f"{path}, line {table.line_num}")
    except csv.Error as error:
        raise DataError(f"{path}: broken CSV after line {table.line_num}: {error}") from error


def read_parquet(path: Path, split: Split | None) -> Iterator[Entry]:
    """Yield the rows of a parquet file, a few at a time.

    Raises
    ------
    DataError
        If the file is not parquet.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            batches = table.iter_batches(batch_size=PARQUET_BATCH)
            records = (record for batch in batches for record in batch.to_pylist())
            for number, record in enumerate(records):
                yield row_entry(record, split, f"{path}, row {number}")
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error})") from error


def read_hub(name: str, streaming: bool) -> Iterator[Entry]:
    """Yield the rows of a dataset of the hub, split after split.

    Raises
    ------
    DataError
        If the dataset cannot be had: no network, unknown name, unreadable content.
    """
    import datasets

    try:
        found = datasets.load_dataset(name, streaming=streaming)
        tables = found.items() if isinstance(found, Mapping) else [("", found)]
        for label, table in tables:
            split = SPLIT_NAMES.get(str(label).lower())
            for number, record in enumerate(table):
                yield row_entry(record, split, f"{name}, split '{label}', row {number}")
    except Exception as error:  # the library raises its own types and those of its transports
        raise DataError(
            f"{name}: datasets.load_dataset could not read it from the hub "
            f"({type(error).__name__}: {error}). Check the name and the network, or download it "
            "elsewhere and set dataset-name to the local folder, such as ./natural-instructions"
        ) from error
