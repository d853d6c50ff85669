"""From named arrays to the words that are summed, and from the sums back.

A layout is public and the same for all silos. It has two lanes: ``tensors`` in words of 16 or
32 bits, rounded at random with a public step for each (slot, tensor), and ``statistics`` in 64
bits with a fixed step. Each lane ends in four canary words, 1 0 0 0 from every silo: masks that
do not cancel leave noise there, and the sum is void.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.codec import digest, pack
from fedvemoe_app.secagg.errors import SecAggAbort, SecAggRefusal
from fedvemoe_app.secagg.keys import derive
from fedvemoe_app.secagg.masks import MASK_KEY_BYTES, Keystream, Words
from fedvemoe_app.secagg.ring import STATISTICS_STEP, Ring, round_exact, round_stochastic, scale

Lane = Literal["tensors", "statistics"]
Lanes = dict[Lane, Words]
Arrays = Mapping[str, NDArray[Any]]

CANARY = (1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Field:
    """One array: its name, shape, lane and steps (one, or one for each entry of the first axis)."""

    name: str
    shape: tuple[int, ...]
    lane: Lane
    steps: tuple[float, ...] = (STATISTICS_STEP,)

    def __post_init__(self) -> None:
        if len(self.steps) not in (1, *self.shape[:1]):
            raise SettingError(
                f"field {self.name}: {len(self.steps)} steps for shape {self.shape}; "
                "give one, or one for each slot"
            )
        if not all(1e-30 < step < 1e30 for step in self.steps):
            raise SettingError(f"field {self.name}: steps must lie between 1e-30 and 1e30")

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def parts(self, start: int) -> Iterator[tuple[slice, float]]:
        """Yield the words of each step, for a field whose words begin at ``start``."""
        length = self.size // len(self.steps)
        for i, step in enumerate(self.steps):
            yield slice(start + i * length, start + (i + 1) * length), step


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of one upload, in order, and the ring of its tensors."""

    fields: tuple[Field, ...]
    ring: Ring

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise SettingError("layout: two fields have one name")

    @property
    def hash(self) -> bytes:
        """What masks are bound to [32]: names, shapes, lanes, steps and ring."""
        fields = [[field.name, field.shape, field.lane, field.steps] for field in self.fields]
        return digest("layout", pack([fields, self.ring.bits, self.ring.n_max]))

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes in use."""
        return tuple(sorted({field.lane for field in self.fields}))

    def ring_of(self, lane: Lane) -> Ring:
        """Return the ring of a lane."""
        return self.ring if lane == "tensors" else Ring(64, self.ring.n_max)

    def size(self, lane: Lane) -> int:
        """Return a lane's number of words, canaries included."""
        return sum(field.size for field in self.fields if field.lane == lane) + len(CANARY)

    def _placed(self, lane: Lane) -> Iterator[tuple[Field, int]]:
        """Yield a lane's fields, each with its first word."""
        start = 0
        for field in self.fields:
            if field.lane == lane:
                yield field, start
                start += field.size

    def encode(self, arrays: Arrays, dither_seed: bytes) -> Lanes:
        """Return one silo's words, unmasked.

        ``arrays`` are float arrays of exactly the fields' names and shapes; ``dither_seed`` [16 or
        more bytes] is the silo's own secret, and the same seed gives the same words. Raises
        SecAggRefusal for other names or shapes, numbers that are not finite, and statistics
        out of range.
        """
        if {name: array.shape for name, array in arrays.items()} != {
            field.name: field.shape for field in self.fields
        }:
            raise SecAggRefusal("arrays to be sent differ from the layout in names or shapes")
        lanes = {lane: np.empty(self.size(lane), self.ring_of(lane).dtype) for lane in self.lanes}
        dither = Keystream(derive(dither_seed, digest("dither"), MASK_KEY_BYTES))
        for lane, words in lanes.items():
            for field, start in self._placed(lane):
                self._write(field, arrays[field.name].reshape(-1), words, start, dither)
            words[-len(CANARY) :] = CANARY
        return lanes

    def _write(
        self, field: Field, values: NDArray[Any], words: Words, start: int, dither: Keystream
    ) -> None:
        ring = self.ring_of(field.lane)
        try:
            for part, step in field.parts(start):
                own = values[part.start - start : part.stop - start]
                if field.lane == "tensors":
                    round_stochastic(own, step, ring, dither, words[part])
                else:
                    round_exact(own, step, ring, words[part])
        except SecAggRefusal as error:
            raise SecAggRefusal(f"{field.name}: {error}") from None

    def decode(self, lanes: Lanes) -> dict[str, NDArray[Any]]:
        """Return the sums by field, of summed words without masks, which are used up.

        Statistics are float64, tensors float32, whose words of 32 bits become them in place.
        """
        found = {}
        for lane in self.lanes:
            ring = self.ring_of(lane)
            sums, values = ring.signed(lanes[lane]), ring.values(lanes[lane])
            for field, start in self._placed(lane):
                for part, step in field.parts(start):
                    scale(sums[part], step, values[part])
                found[field.name] = values[start : start + field.size].reshape(field.shape)
        return found

    def check(self, lanes: Mapping[Lane, Words]) -> None:
        """Raise SecAggRefusal unless ``lanes`` have this layout's lanes, types and sizes."""
        expected = {lane: (self.ring_of(lane).dtype, (self.size(lane),)) for lane in self.lanes}
        if {lane: (words.dtype, words.shape) for lane, words in lanes.items()} != expected:
            raise SecAggRefusal("an upload differs from the layout in lanes, types or sizes")


class Accumulator:
    """Adds uploads one by one. Masked or not: ``sim`` and ``secagg`` share it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.silos = 0
        self.lanes: Lanes = {}

    def add(self, upload: Lanes) -> None:
        """Add a silo's words; SecAggRefusal, with nothing added, if they do not fit."""
        self.layout.check(upload)
        if self.silos == self.layout.ring.n_max:
            raise SecAggRefusal(f"more uploads than n_max {self.silos}")
        for lane, words in upload.items():
            if self.silos:
                np.add(self.lanes[lane], words, out=self.lanes[lane])
            else:
                self.lanes[lane] = words.copy()
        self.silos += 1

    def total(self) -> dict[str, NDArray[Any]]:
        """End the sum; return it by field, statistics as float64 and tensors as float32.

        SecAggAbort if the canaries say that masks did not cancel.
        """
        expected = [self.silos * word for word in CANARY]
        for lane, words in self.lanes.items():
            if words[-len(CANARY) :].tolist() != expected:
                raise SecAggAbort(f"the sum of {lane} does not add up")
        return self.layout.decode(self.lanes)
