"""Rows of a journal as they must be: a damaged one is an error that names file, line and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NotRequired, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import jsonl

Row = TypeVar("Row")
IN_JSON: dict[Any, tuple[type, ...]] = {
    int: (int,),
    str: (str,),
    float: (int, float, NoneType),  # NaN has no JSON form but null
    NoneType: (NoneType,),
    Sequence: (list,),
    Mapping: (dict,),
}
"""The types in which JSON holds a field of a row."""


def read_rows(file: Path, kind: type[Row]) -> list[Row]:
    """Read a file of rows of the typed dictionary ``kind``; none where there is no file.

    Raises
    ------
    RunError
        Where a line is no JSON object, lacks a key, or a value is not of the key's type.
    """
    rows = jsonl.read(file)
    for number, row in enumerate(rows, start=1):
        for key, (required, types) in _fields(cast("type", kind)).items():
            if key not in row:
                if required:
                    raise RunError(f"{file}, line {number} lacks {key}: restore or remove the line")
            elif not isinstance(row[key], types) or isinstance(row[key], bool):
                said = f"{key} = {str(row[key])[:40]!r}"
                raise RunError(
                    f"{file}, line {number}: {said} is not of its type: restore or remove the line"
                )
    return cast("list[Row]", rows)


@cache
def _fields(kind: type) -> dict[str, tuple[bool, tuple[type, ...]]]:
    """Return whether each key must be there, and what its value may be."""
    fields = {}
    for key, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        inner = get_args(hint)[0] if optional else hint
        parts = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
        types = [each for part in parts for each in IN_JSON[get_origin(part) or part]]
        fields[key] = (not optional, tuple(types))
    return fields
