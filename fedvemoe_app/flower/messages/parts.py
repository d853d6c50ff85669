"""Large messages in parts: a model of seven billion parameters does not travel in one piece.

The arrays of a message are one long row of bytes. Where they exceed ``message-mb``, the message
carries the first piece and a plan of all; the others follow, each a message of its own, and are
accepted only where size and hash are those of the plan. What is put together again is the same
message, bit for bit; masks are bound to it, not to its pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Self

from flwr.app import Array, ArrayRecord, RecordDict

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import arrays_in, get_facts, is_shape, put_facts, texts_in

PLAN, PIECE = "parts", "part"
"""Records of a message in parts: what belongs together, and one piece of it."""

MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Plan:
    """What a message in parts is made of.

    ``arrays`` are record, key, format, shape, serialisation and bytes of each; ``piece`` the bytes
    of every piece but the last; ``hashes`` the SHA-256 of each piece in hex.
    """

    arrays: list[list[Any]]
    piece: int
    hashes: list[str]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(array[5] for array in self.arrays)

    @property
    def id(self) -> str:
        """What tells this message's pieces from another's."""
        return _hash("".join(self.hashes).encode())

    def place(self, number: int) -> slice:
        """Return where a piece belongs."""
        return slice(number * self.piece, min((number + 1) * self.piece, self.total))

    def check(self, number: int, data: bytes) -> None:
        """Raise RunError unless ``data`` is piece ``number``."""
        place = self.place(number)
        if len(data) != place.stop - place.start or _hash(data) != self.hashes[number]:
            raise RunError(f"{_said(number, self)} is damaged or belongs elsewhere")

    @classmethod
    def of(cls, content: RecordDict) -> Self | None:
        """Return the plan in a message; None where it is whole, RunError where it is damaged."""
        if PLAN not in content:
            return None
        facts = get_facts(content, PLAN)
        match facts:
            case {"arrays": [*arrays], "piece": int(piece), "hashes": [*hashes]} if (
                piece > 0
                and all(map(_is_array, arrays))
                and all(isinstance(found, str) for found in hashes)
            ):
                plan = cls(arrays, piece, hashes)
                if len(hashes) == -(-plan.total // piece):
                    return plan
        raise RunError("the plan of a message in parts is damaged")


def _is_array(entry: object) -> bool:
    match entry:
        case [str(), str(), str(), [*shape], str(), size]:
            return is_shape(shape) and is_shape([size])
    return False


def split(content: RecordDict, limit: int) -> tuple[RecordDict, list[RecordDict]]:
    """Return the message that goes first and those that carry the other pieces.

    Nothing changes where all arrays together have at most ``limit`` bytes.
    """
    if size_of(content) <= limit:
        return content, []
    plan, pieces = cut(content, limit)
    rest = [following(plan, number, data) for number, data in enumerate(pieces)][1:]
    return first_of(content, plan, pieces[0]), rest


def cut(content: RecordDict, limit: int) -> tuple[Plan, list[bytes]]:
    """Return the pieces of all arrays of a message, and their plan."""
    arrays = [
        (name, key, array)
        for name, record in sorted(arrays_in(content).items())
        for key, array in record.items()
    ]
    pieces = list(_pieces([array.data for _, _, array in arrays], limit))
    entries = [[n, k, a.dtype, list(a.shape), a.stype, len(a.data)] for n, k, a in arrays]
    return Plan(entries, limit, [_hash(piece) for piece in pieces]), pieces


def first_of(content: RecordDict, plan: Plan, piece: bytes) -> RecordDict:
    """Return what goes first of a message: all but its arrays, the plan and one piece."""
    first = RecordDict(dict(texts_in(content)))
    put_facts(first, PLAN, asdict(plan))
    put_piece(first, piece)
    return first


def _pieces(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the bytes of all blocks, ``size`` at a time."""
    piece = bytearray()
    for block in blocks:
        start = 0
        while start < len(block):
            fits = size - len(piece)
            piece += memoryview(block)[start : start + fits]
            start += fits
            if len(piece) == size:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def size_of(content: RecordDict) -> int:
    """Return the bytes of all arrays."""
    return sum(
        len(array.data) for record in arrays_in(content).values() for array in record.values()
    )


def following(plan: Plan, number: int, data: bytes | None = None) -> RecordDict:
    """Return the message that carries a piece, or (without ``data``) asks for it."""
    content = RecordDict()
    put_facts(content, PLAN, {"id": plan.id, "number": number})
    if data is not None:
        put_piece(content, data)
    return content


def put_piece(content: RecordDict, data: bytes) -> None:
    """Add a piece to a message."""
    content[PIECE] = _record({PIECE: data})


def piece_in(content: RecordDict) -> bytes:
    """Return the piece that a message carries; RunError where it is missing."""
    try:
        return arrays_in(content)[PIECE][PIECE].data
    except KeyError:
        raise RunError("a message without the piece that it should carry") from None


def whole(first: RecordDict, plan: Plan, piece: Callable[[int], bytes]) -> RecordDict:
    """Return the message that ``split`` was given; ``piece`` finds those that did not go first.

    Every piece is laid in its place as it comes, so that only one is held beside the whole.
    """
    row = bytearray(plan.total)
    for number in range(len(plan.hashes)):
        data = piece(number) if number else piece_in(first)
        plan.check(number, data)
        row[plan.place(number)] = data
    grouped = {str(array[0]): ArrayRecord() for array in plan.arrays}
    ends = list(accumulate((array[5] for array in plan.arrays), initial=0))
    content = RecordDict({name: first[name] for name in first if name not in (PLAN, PIECE)})
    for (name, key, dtype, shape, stype, size), start in zip(plan.arrays, ends, strict=False):
        array = Array(dtype, tuple(shape), stype, b"")
        array.data = memoryview(row)[start : start + size]  # type: ignore[assignment]
        grouped[name][key] = array
    for name, record in grouped.items():
        content[name] = record
    return content


def keep(state: RecordDict, record: str, pieces: Mapping[str, bytes]) -> None:
    """Keep pieces in a silo's own state, in place of those kept before."""
    forget(state, record)
    if pieces:
        state[record] = _record(pieces)


def forget(state: RecordDict, record: str) -> None:
    """Drop the pieces kept, if any."""
    if record in state:
        del state[record]


def _record(pieces: Mapping[str, bytes]) -> ArrayRecord:
    return ArrayRecord(
        {name: Array("uint8", (len(data),), "bytes", data) for name, data in pieces.items()}
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _said(number: int, plan: Plan) -> str:
    return f"part {number + 1} of {len(plan.hashes)}"
