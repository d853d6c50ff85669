"""What a secure sum is, agreed by hash, and what a silo demands of it before it takes part."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, Self, get_args

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.codec import (
    digest,
    is_bytes,
    is_flag,
    is_int,
    is_names,
    is_text,
    pack,
    unpack,
)
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.ring import Ring

Mode = Literal["secagg", "sim", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)

SESSION_BYTES = 16
MIN_SILOS = 3
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_name(name: str) -> bool:
    """Whether ``name`` is short and plain."""
    return bool(_NAME.fullmatch(name))


def check_name(name: str, what: str) -> None:
    """Raise SettingError unless ``name`` is short and plain."""
    if not is_name(name):
        raise SettingError(f"{what} {name!r}: use 1 to 64 letters, digits, '.', '_' or '-'")


def least_threshold(silos: int) -> int:
    """Return floor(2n/3) + 1: two halves of a split cohort can never both reach it."""
    return 2 * silos // 3 + 1


@dataclass(frozen=True)
class SessionSpec:
    """One secure sum. ``hash`` goes into every signature, key and mask of it.

    ``session`` 16 random bytes; ``run`` a number that grows from run to run; ``serial`` one that
    grows from session to session of a run; ``phase`` what is summed (``statistics``,
    ``vectors``, ...); ``cohort`` sorted silo names; ``threshold`` silos that every phase needs;
    ``min_survivors`` silos that a sum must hold; ``n_max`` and ``bits`` fix the ring of tensors;
    ``confirm`` asks silos to sign the survivors before they unmask (active server).
    """

    session: bytes
    run: int
    serial: int
    phase: str
    cohort: tuple[str, ...]
    threshold: int
    min_survivors: int
    n_max: int
    bits: int
    confirm: bool

    def __post_init__(self) -> None:
        check_name(self.phase, "phase")
        for name in self.cohort:
            check_name(name, "silo")
        if list(self.cohort) != sorted(set(self.cohort)):
            raise SettingError("cohort: silo names must be sorted and distinct")
        if self.bits == 64 or self.ring.n_max < len(self.cohort):
            raise SettingError(
                f"n_max {self.n_max} and {self.bits} bits could overflow with "
                f"{len(self.cohort)} silos: n_max must be at least their number"
            )
        sizes = (self.threshold, self.min_survivors)
        if min(self.run, self.serial) < 0 or not all(
            1 <= size <= len(self.cohort) for size in sizes
        ):
            raise SettingError(
                f"threshold {self.threshold} and min_survivors {self.min_survivors} must be "
                f"1 to {len(self.cohort)}, the cohort's size, and run and serial not negative"
            )

    @classmethod
    def new(
        cls,
        serial: int,
        phase: str,
        cohort: Iterable[str],
        *,
        run: int = 0,
        bits: int = 32,
        n_max: int = 0,
        min_survivors: int = MIN_SILOS,
        confirm: bool = False,
    ) -> Self:
        """Return a fresh session; ``n_max`` 0 stands for the cohort's size."""
        names = tuple(sorted(cohort))
        return cls(
            session=os.urandom(SESSION_BYTES),
            run=run,
            serial=serial,
            phase=phase,
            cohort=names,
            threshold=least_threshold(len(names)),
            min_survivors=min_survivors,
            n_max=n_max or len(names),
            bits=bits,
            confirm=confirm,
        )

    @property
    def ring(self) -> Ring:
        """The ring of the tensors' lane."""
        return Ring(self.bits, self.n_max)

    @property
    def least_survivors(self) -> int:
        """How many silos a sum must hold."""
        return max(self.threshold, self.min_survivors)

    @cached_property
    def hash(self) -> bytes:
        """What everything in this session is bound to [32]."""
        return digest("spec", self.to_bytes())

    def number(self, name: str) -> int:
        """Return a silo's number in this session, from 1."""
        return self.cohort.index(name) + 1

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return pack({item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the spec of ``to_bytes``; SecAggRefusal if it is malformed."""
        found = unpack(
            data,
            "session",
            session=is_bytes(SESSION_BYTES),
            run=is_int,
            serial=is_int,
            phase=is_text,
            cohort=is_names,
            threshold=is_int,
            min_survivors=is_int,
            n_max=is_int,
            bits=is_int,
            confirm=is_flag,
        )
        try:
            return cls(**{**found, "cohort": tuple(found["cohort"])})
        except SettingError as error:
            raise SecAggRefusal(f"session: {error}") from None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a silo's own configuration demands, whatever a server proposes.

    ``modes`` and ``phases`` that it takes part in; ``min_silos`` in a cohort; ``min_survivors``
    in a sum; ``require_confirm`` insists on signed survivors; ``allow_repeats`` lets one model be
    unmasked for two sets of survivors, from whose difference single silos could be computed.
    """

    modes: tuple[Mode, ...] = ("secagg",)
    phases: tuple[str, ...] = ("statistics", "vectors")
    min_silos: int = MIN_SILOS
    min_survivors: int = MIN_SILOS
    require_confirm: bool = False
    allow_repeats: bool = False

    def admit(self, mode: str) -> None:
        """Raise SecAggRefusal unless this silo accepts ``mode``."""
        if mode not in self.modes:
            raise SecAggRefusal(
                f"privacy = {mode} is not accepted by this silo, which takes {list(self.modes)}"
            )

    def check(self, spec: SessionSpec, name: str, known: Collection[str]) -> None:
        """Raise SecAggRefusal unless silo ``name`` may take part; ``known`` are roster names."""
        self.admit("secagg")
        size = len(spec.cohort)
        unknown = sorted(set(spec.cohort) - set(known))
        demands = {
            f"this silo, {name}, is not in the cohort": name in spec.cohort,
            f"silos {unknown} are not in the pinned roster": not unknown,
            f"phase {spec.phase} is not among {list(self.phases)}": spec.phase in self.phases,
            f"a cohort of {size} is below min_silos {self.min_silos}": size >= self.min_silos,
            f"threshold {spec.threshold} is below {least_threshold(size)}": (
                spec.threshold >= least_threshold(size)
            ),
            f"min_survivors {spec.min_survivors} is below {self.min_survivors}": (
                spec.min_survivors >= self.min_survivors
            ),
            "this silo demands signed survivors (confirm)": (
                spec.confirm or not self.require_confirm
            ),
        }
        broken = [text for text, met in demands.items() if not met]
        if broken:
            raise SecAggRefusal(f"session {spec.serial} refused: {'; '.join(broken)}")
