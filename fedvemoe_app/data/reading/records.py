"""What every reader of task files yields: one row per question, or a problem that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from fedvemoe_app.data.task import Split


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the source that was skipped or changed, where it stands, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Heading:
    """What a question belongs to (``split`` is None where the source gives no split)."""

    task: str
    definition: str
    categories: tuple[str, ...]
    split: Split | None


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answers, as the source states it."""

    heading: Heading
    id: str
    input: str
    outputs: tuple[str, ...]
    where: str


Entry = Row | Problem
#: Reads the source afresh; with names, only those tasks need to be yielded.
Reader = Callable[[frozenset[str] | None], Iterator[Entry]]


class BadRecordError(ValueError):
    """A record lacks a field or has one of the wrong type; readers turn it into a problem."""


def text_field(record: Mapping[str, object], key: str) -> str:
    """Return a field that must be a string.

    Raises
    ------
    BadRecordError
        If the field is missing, is not a string, or cannot be written as UTF-8.
    """
    value = record.get(key)
    if value is None:
        raise BadRecordError(f"field '{key}' is missing; add it as a string")
    return checked_text(value, key)


def texts_field(record: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return a field that is a string or a list of strings: distinct, none blank, at least one."""
    value = record.get(key)
    if value is None:
        raise BadRecordError(f"field '{key}' is missing; add a string or a list of strings")
    values = value if isinstance(value, list | tuple) else [value]
    texts = dict.fromkeys(checked_text(item, key) for item in values)
    kept = tuple(text for text in texts if text.strip())
    if not kept:
        raise BadRecordError(f"field '{key}' is empty; give at least one non-blank string")
    return kept


def optional_texts(record: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return a field like :func:`texts_field`, or nothing where it is missing or empty."""
    return texts_field(record, key) if record.get(key) else ()


def question_row(
    record: Mapping[str, object], heading: Heading, input_key: str, output_key: str, where: str
) -> Row:
    """Return the record's question: its id (or one made from the input), input and answers."""
    question = text_field(record, input_key)
    answers = texts_field(record, output_key)
    return Row(heading, _id_of(record, question), question, answers, where)


def _id_of(record: Mapping[str, object], question: str) -> str:
    value = record.get("id")
    if value is None or value == "":
        return f"sha256-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return checked_text(value, "id")


def checked_text(value: object, key: str) -> str:
    """Return ``value`` if it is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise BadRecordError(f"field '{key}' must be a string, not {kind} ({value!r:.40})")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(
            f"field '{key}' holds half a surrogate pair at character {error.start}; replace it"
        ) from error
    return value


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean a, b?" with the names closest to ``name``, or nothing."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(near)}?" if near else ""
