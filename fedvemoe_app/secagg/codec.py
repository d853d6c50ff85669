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
_HEX = "$hex"
_DOMAIN = b"fedvemoe/secagg/1"


def pack(value: object) -> bytes:
    """Return the canonical JSON of numbers, text, bytes, lists and dicts of them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_hexed)
    return text.encode()


def _hexed(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {_HEX: value.hex()}
    raise TypeError(f"cannot pack a {type(value).__name__}")


def unpack(data: bytes, what: str, **checks: Check) -> dict[str, Any]:
    """Return the fields of a packed dict; SecAggRefusal unless exactly those that ``checks`` name.

    ``what`` is the name of the message in the error.
    """
    try:
        fields = parse(data, MOST_BYTES, _unhexed)
        canonical = pack(fields) == data
    except (ValueError, TypeError, RecursionError):
        raise SecAggRefusal(f"{what}: not a message of this protocol") from None
    if not canonical or not isinstance(fields, dict) or fields.keys() != checks.keys():
        raise SecAggRefusal(f"{what}: not a message of this protocol")
    for name, check in checks.items():
        if not check(fields[name]):
            raise SecAggRefusal(f"{what}: field {name} is malformed")
    return fields


def _unhexed(fields: dict[str, Any]) -> object:
    return bytes.fromhex(fields[_HEX]) if fields.keys() == {_HEX} else fields


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
        data = memoryview(part.encode() if isinstance(part, str) else part)
        state.update(data.nbytes.to_bytes(8, "big"))
        state.update(data)
    return state.digest()
