"""What the server tells silos of the bank's structure: it is the same word to every silo.

K runs over the columns a silo sees, the living experts in order; ``slots`` are their numbers in
the bank, by which a silo knows an expert again when others have come or gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Notice:
    """Comes with the bank when it is assessed.

    ``since [K]`` is the round of the last event that touched an expert. ``axis [K, d]`` and
    ``level [K]`` split the wishes of the last training: a silo stands on side 1 of expert k if
    its wish has ``<wish, axis_k> > level_k``; an axis of zeros has no sides. ``trial`` is the
    column of an expert on trial; ``candidate`` [1, ...] a merged expert that might take the place
    of columns ``leaving`` and ``into``.
    """

    round: int
    slots: tuple[int, ...]
    since: tuple[int, ...]
    axis: Tensor
    level: Tensor
    trial: int | None = None
    leaving: int | None = None
    into: int | None = None
    candidate: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """Comes with the order to train.

    ``adopt``: the candidate that was assessed takes its place in the bank that the silo holds.
    ``parent`` and ``side``: the dissatisfied silos of that side add their ``parent`` (a slot's
    number) as they trained it.
    """

    adopt: bool = False
    parent: int | None = None
    side: int = 0
