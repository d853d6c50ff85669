"""One byte string per value: what ``pack`` writes is all that ``unpack`` reads.

Removed by hand, each turned a test here red: the comparison with the canonical form; that of the
digits of bytes; the second mark of text; the exact set of fields; the checks of fields; the lengths
in ``digest``.
"""

from __future__ import annotations

import pytest

from fedvemoe_app.secagg.codec import (
    digest,
    is_bytes,
    is_int,
    is_map,
    is_names,
    is_text,
    pack,
    unpack,
)
from fedvemoe_app.secagg.errors import SecAggRefusal


def test_values_come_back() -> None:
    value = {"a": b"\x00\xff", "b": {"x": b"", "y": b"y"}, "c": ["p", "q"], "d": 3, "e": "$00"}
    checks = {"a": is_bytes(2), "b": is_map(is_bytes()), "c": is_names, "d": is_int, "e": is_text}
    assert unpack(pack(value), "message", **checks) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"a":1,"b":2}',
        b'{ "a":1}',
        b'{"a":2,"a":1}',
        b'{"a":1.0}',
        b'{"a":true}',
        b'{"a":"1"}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(SecAggRefusal, match="message"):
        unpack(data, "message", a=is_int)


@pytest.mark.parametrize("data", [b'{"a":"$0"}', b'{"a":"$AB"}', b'{"a":"$00 "}', b'{"a":"$x"}'])
def test_bytes_have_one_text(data: bytes) -> None:
    assert unpack(b'{"a":"$ab"}', "message", a=is_bytes()) == {"a": b"\xab"}
    with pytest.raises(SecAggRefusal, match="message"):
        unpack(data, "message", a=is_bytes())


@pytest.mark.parametrize("value", [["b", "a"], ["a", "a"], "ab", [1], {"a": 1}])
def test_names_are_sorted_and_distinct(value: object) -> None:
    assert not is_names(value)


def test_digests_separate_labels_and_parts() -> None:
    found = [digest("a", "b", "c"), digest("a", "bc"), digest("ab", "c"), digest("a", b"bc", b"")]
    assert len(set(found)) == 4
