"""What a silo's statistics are to the mechanism: how large, of which sign, or not sent at all.

A field that nobody declared here is a statistic of norm 1 or less that may have either sign: it is
clipped and noised like the others. So a new sum is covered before anybody thinks of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.errors import RunError


@dataclass(frozen=True, slots=True)
class Bound:
    """The ``norm`` of one silo's field, a power of two from 1 on (scaling is exact); its sign."""

    norm: float = 1.0
    positive: bool = False


BOUNDS = {
    "mass": Bound(1.0, positive=True),  # responsibilities, which sum to one
    "contributors": Bound(2.0, positive=True),  # top-m ones: up to four
    "displaced": Bound(1.0, positive=True),  # the same mass, by where it would go
    "score": Bound(8.0),  # nats per token
    "gain": Bound(1.0),  # nats per token
    "weight": Bound(1.0, positive=True),  # with silo-weight = equal they sum to one
    "silo_weight": Bound(2.0, positive=True),
}

PUBLIC = ("silos",)
"""Ones that silos send whatever they hold: who takes part is no secret."""

WITHHELD = ("tokens", "loss", "squares", "gain_variance")
"""For journal, scales and caution alone: sent as zeros, so that the others need less noise."""

EVALUATION = ("scores", "ppl_histogram")
"""Leave exact where ``dp-evaluation`` consents to it."""


def field_of(name: str) -> str:
    """Return the field of an array: that of ``squares/x`` is ``squares``."""
    return name.partition("/")[0]


def bound_of(name: str) -> Bound:
    """Return what is declared of an array."""
    return BOUNDS.get(field_of(name), Bound())


@dataclass(frozen=True, slots=True)
class Groups:
    """The arrays of an upload by what becomes of them."""

    vectors: tuple[str, ...]
    statistics: tuple[str, ...]
    exact: tuple[str, ...]
    withheld: tuple[str, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], vectors: tuple[str, ...], evaluation: bool) -> Groups:
        """Sort ``names``; ``evaluation`` says whether scores may leave exact.

        Raises
        ------
        RunError
            Where a vector is not among the names.
        """
        if strangers := set(vectors) - set(names):
            raise RunError(f"vectors to be noised that are not sent: {sorted(strangers)}")
        exact = (*PUBLIC, *EVALUATION) if evaluation else PUBLIC
        rest = [name for name in names if name not in vectors]
        kept = [name for name in rest if name not in exact and field_of(name) not in WITHHELD]
        return cls(
            vectors=vectors,
            statistics=tuple(kept),
            exact=tuple(name for name in rest if name in exact),
            withheld=tuple(name for name in rest if field_of(name) in WITHHELD),
        )
