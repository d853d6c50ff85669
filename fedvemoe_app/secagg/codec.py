"""One byte string for each value: canonical JSON, and hashes that cannot be confused.

Everything that is signed, hashed or stored goes through ``pack``. ``unpack`` accepts what
``pack`` writes and nothing else, so there are no two texts of one value (spaces, a name given
twice).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from fedvemoe_app.jsontext import parse
from fedvemoe_app.secagg.errors import SecAggRefusal

Check = Callable[[object], bool]

MOST_BYTES = 2**24
"""Of one message of the protocol, or of a silo's memory: what a thousand silos need."""
_MARK = "$"
"""Bytes are text of this mark and their hex digits; text that begins with it gets another."""
_DOMAIN = b"fedvemoe/secagg/1"

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def pack(value: object) -> bytes:
    """Return the canonical JSON of numbers, text, bytes, lists and dicts of them."""
    return _encode(_marked(value)).encode()


def _marked(value: object) -> object:
    if isinstance(value, bytes):
        return _MARK + value.hex()
    if isinstance(value, str):
        return _MARK + value if value.startswith(_MARK) else value
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    return [_marked(item) for item in value] if isinstance(value, list | tuple) else value


def unpack(data: bytes, what: str, **checks: Check) -> dict[str, Any]:
    """Return the fields of a packed dict; SecAggRefusal unless exactly those that ``checks`` name.

    ``what`` is the name of the message in the error.
    """
    try:
        marked = parse(data, MOST_BYTES)
        canonical = _encode(marked).encode() == data
        fields: Any = _unmarked(marked)
    except (ValueError, TypeError, RecursionError):
        raise SecAggRefusal(f"{what}: not a message of this protocol") from None
    if not canonical or not isinstance(fields, dict) or fields.keys() != checks.keys():
        raise SecAggRefusal(f"{what}: not a message of this protocol")
    for name, check in checks.items():
        if not check(fields[name]):
            raise SecAggRefusal(f"{what}: field {name} is malformed")
    return fields


def _unmarked(value: object) -> object:
    if isinstance(value, str):
        return _text_or_bytes(value) if value.startswith(_MARK) else value
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value.items()}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value


def _text_or_bytes(value: str) -> str | bytes:
    """Return what a marked text stands for; ValueError for bytes that ``pack`` writes otherwise."""
    rest = value.removeprefix(_MARK)
    if rest.startswith(_MARK):
        return rest
    found = bytes.fromhex(rest)
    if found.hex() != rest:
        raise ValueError("bytes have lower-case digits and nothing else")
    return found


def is_int(value: object) -> bool:
    """Whether ``value`` is an integer (a truth value is none)."""
    return type(value) is int


def is_flag(value: object) -> bool:
    """Whether ``value`` is true or false."""
    return isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether ``value`` is text."""
    return isinstance(value, str)


def is_bytes(size: int | None = None) -> Check:
    """Check for bytes, of ``size`` if given."""
    return lambda value: isinstance(value, bytes) and size in (None, len(value))


def is_names(value: object) -> bool:
    """Whether ``value`` is a sorted list of distinct names."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    return value == sorted(set(value))


def is_map(check: Check) -> Check:
    """Check for a dict from names to values that pass ``check``."""
    return lambda value: (
        isinstance(value, dict) and all(is_text(k) and check(v) for k, v in value.items())
    )


def digest(label: str, *parts: bytes | str | memoryview) -> bytes:
    """Return SHA-256 [32] of ``parts``, each with its length, in the domain ``label``."""
    state = hashlib.sha256()
    for part in (_DOMAIN, label, *parts):
        data = part.encode() if isinstance(part, str) else part
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        state.update(size.to_bytes(8, "big"))
        state.update(data)
    return state.digest()
