"""What door and worker say to each other: whole byte strings, after both proved the key.

Nothing is pickled: only the framing and the mutual challenge of ``multiprocessing.connection``
are used.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection

Parts = Sequence[bytes]

WELCOME, OTHER = b"welcome", b"other"
"""A worker's answer to a greeting: it serves on these terms, or it served others and leaves."""
DONE, FAILED = b"done", b"failed"
"""How a message ended: what follows is the answer, or the reason."""

_COUNT = struct.Struct("!I")


def send(line: Connection, parts: Parts) -> None:
    """Send byte strings of any size."""
    line.send_bytes(_COUNT.pack(len(parts)))
    for part in parts:
        line.send_bytes(part)


def receive(line: Connection) -> list[bytes]:
    """Return what ``send`` sent; EOFError or OSError where the other end has gone."""
    (count,) = _COUNT.unpack(line.recv_bytes(_COUNT.size))
    return [line.recv_bytes() for _ in range(count)]
