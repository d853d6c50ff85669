"""Task files in the community format of Natural Instructions: one JSON object per task.

``Definition`` (a string, or a list whose first entry is used, as the official scorer does),
optional ``Categories``, and ``Instances``: a list of ``{id?, input, output}``. The task's name is
the file's stem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedvemoe_app.data.reading.records import (
    BadRecordError,
    Entry,
    Heading,
    Problem,
    optional_texts,
    question_row,
    texts_field,
)
from fedvemoe_app.data.task import Split
from fedvemoe_app.errors import DataError


def read_task(content: Mapping[str, object], path: Path, split: Split | None) -> Iterator[Entry]:
    """Yield the instances of one task file.

    Raises
    ------
    DataError
        If ``Definition`` or ``Instances`` is missing, of the wrong type, or empty.
    """
    try:
        definition = texts_field(content, "Definition")[0]
        categories = optional_texts(content, "Categories")
    except BadRecordError as error:
        raise DataError(f"{path}: {error}") from error
    heading = Heading(path.stem, definition, categories, split)
    for number, instance in enumerate(_instances(content, path)):
        yield _entry(instance, heading, f"{path}, instance {number}")


def _entry(instance: object, heading: Heading, where: str) -> Entry:
    if not isinstance(instance, dict):
        return Problem(where, f"must be an object with input and output, not {instance!r:.40}")
    label = f"{where} (id {instance['id']!r:.60})" if "id" in instance else where
    try:
        return question_row(instance, heading, "input", "output", label)
    except BadRecordError as error:
        return Problem(label, str(error))


def _instances(content: Mapping[str, object], path: Path) -> list[object]:
    instances = content.get("Instances")
    if not isinstance(instances, list):
        kind = "is missing" if instances is None else f"is a {type(instances).__name__}"
        raise DataError(f"{path}: field 'Instances' {kind}; it must be a list of input/output")
    if not instances:
        raise DataError(f"{path}: the task has no instances; fill 'Instances' or remove the file")
    return instances
