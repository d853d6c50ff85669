"""Messages as an enemy or a broken disk would make them, from sound ones and a random generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

NUGGETS = (
    b"[" * 5000,
    b'{"a":' * 3000,
    b"1" * 5000,
    b"1e999",
    b"-1",
    b"NaN",
    b"null",
    b'"\\ud800"',
    b"\xff\xfe",
    b"\x00" * 64,
    b"{}",
    b'{"$hex":"zz"}',
)
"""Bytes that readers of JSON, numbers or text may choke on."""

JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 2**31, 2**63, 10**30, 10**400, 1e308, -0.5),
    *(float("nan"), float("inf"), "", "float32", "x" * 2000, "\ud800", "\x1b[2J"),
    *([], {}, [[]], [0] * 300, [2**62, 2**62], [0, 10**30], {"a": 1}, ["float32", [2**40]]),
)
"""Values where another was expected."""

HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10000000000000000000), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }",
    "{'descr': '>u4', 'fortran_order': False, 'shape': (-1,), }",
    "(" * 900,
)
"""Headers of NumPy arrays that promise what is not there."""


def bytes_mutated(rng: Random, data: bytes) -> bytes:
    """Return bytes with one to three things done to them."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 2, 8, 64, 10**6)))
        data = rng.choice(_CHANGES)(rng, data, start, end)
    return data


_CHANGES: tuple[Callable[[Random, bytes, int, int], bytes], ...] = (
    lambda rng, data, a, b: (
        data[:a] + bytes(x ^ (1 << rng.randrange(8)) for x in data[a:b]) + data[b:]
    ),
    lambda rng, data, a, b: data[:a] + rng.randbytes(b - a) + data[b:],
    lambda rng, data, a, b: data[:a],
    lambda rng, data, a, b: data[a:],
    lambda rng, data, a, b: data[:a] + data[b:],
    lambda rng, data, a, b: data[:b] + data[a:],
    lambda rng, data, a, b: data[:a] + rng.choice(NUGGETS) + data[a:],
    lambda rng, data, a, b: data[:a] + rng.choice(NUGGETS) + data[b:],
    lambda rng, data, a, b: data[b:] + data[:a],
)


def json_mutated(rng: Random, value: Any) -> Any:
    """Return a value of JSON with something in it replaced, dropped, doubled or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value, key=str))
        rest = {name: item for name, item in value.items() if name != key}
        match rng.randrange(5):
            case 0:
                return rest
            case 1:
                return {**rest, f"{key}x": value[key]}
            case _:
                return {**value, key: json_mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(5):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value + value[at:]
            case _:
                return [*value[:at], json_mutated(rng, value[at]), *value[at + 1 :]]
    return rng.choice(JUNK)


def text_mutated(rng: Random, text: str) -> str:
    """Return text of JSON, damaged as a value or as bytes."""
    if rng.random() < 0.7:
        return json.dumps(json_mutated(rng, json.loads(text)))
    return bytes_mutated(rng, text.encode()).decode(errors="replace")


def record_mutated(rng: Random, content: RecordDict) -> RecordDict:
    """Return a message's content with one record damaged, dropped, renamed or of another kind."""
    changed = RecordDict(dict(content))
    if not changed:
        return changed
    name = rng.choice(sorted(changed))
    record = changed[name]
    if rng.random() < 0.15:
        del changed[name]
        return changed
    if rng.random() < 0.1:
        changed[name] = rng.choice(
            (ConfigRecord(), ArrayRecord(), MetricRecord({"a": 1}), ConfigRecord({"json": "[]"}))
        )
        return changed
    if isinstance(record, ArrayRecord):
        changed[name] = _arrays_mutated(rng, record)
    elif isinstance(record, ConfigRecord):
        changed[name] = _config_mutated(rng, record)
    return changed


def _config_mutated(rng: Random, record: ConfigRecord) -> ConfigRecord:
    entries: dict[str, Any] = dict(record)
    if not entries:
        return ConfigRecord({"json": "{}"})
    key = rng.choice(sorted(entries))
    value = entries[key]
    if rng.random() < 0.1:
        del entries[key]
    elif rng.random() < 0.1:
        entries[key] = rng.choice((0, -1, 2**62, 1.5, True, "", b"", b"\xff", [1, 2], ["a"]))
    elif isinstance(value, bytes):
        entries[key] = bytes_mutated(rng, value)
    elif isinstance(value, str):
        entries[key] = text_mutated(rng, value) if key == "json" else "x"
    else:
        entries[key] = rng.choice((0, -1, 1, 17, 2**40))
    return ConfigRecord(entries)


def _arrays_mutated(rng: Random, record: ArrayRecord) -> ArrayRecord:
    arrays = dict(record.items())
    if not arrays:
        return ArrayRecord({"float32": Array(np.zeros(3, np.float32))})
    key = rng.choice(sorted(arrays))
    array = arrays[key]
    match rng.randrange(6):
        case 0:
            del arrays[key]
        case 1:
            arrays[f"{key}x"] = arrays.pop(key)
        case 2:
            kind = rng.choice(("float64", "uint8", "bool", "int64", "complex64", "<U3"))
            arrays[key] = Array(np.zeros(rng.choice(((), (3,), (0,), (2, 2))), kind))
        case 3:
            header = rng.choice(HEADERS).encode().ljust(118, b" ") + b"\n"
            data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            arrays[key] = Array(array.dtype, array.shape, array.stype, data + array.data[-64:])
        case 4:
            words = np.frombuffer(array.data[-8:].rjust(8, b"\0"), np.uint8) | 0x7F  # often NaN
            data = array.data[: -len(words)] + words.tobytes()
            arrays[key] = Array(array.dtype, array.shape, array.stype, data)
        case _:
            stype = rng.choice((array.stype, array.stype, "pickle", ""))
            data = bytes_mutated(rng, array.data)
            arrays[key] = Array(array.dtype, array.shape, stype, data)
    return ArrayRecord(arrays)
