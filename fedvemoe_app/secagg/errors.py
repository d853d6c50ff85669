"""Two ways a secure sum ends without one: a silo refuses, or the server has too few left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fedvemoe_app.errors import RunError

Ended = TypeVar("Ended")


class SecAggRefusal(RunError):  # noqa: N818 - what it is called in the protocol
    """A message or an upload breaks the protocol or the silo's policy; nothing was given away."""


class SecAggAbort(RunError):  # noqa: N818 - what it is called in the protocol
    """A session is void: a phase is short of clients, or the sum did not prove itself."""


def unless_aborted(ending: Callable[[], Ended]) -> Ended | None:
    """Return what ends a phase; None where too few are left for it."""
    try:
        return ending()
    except SecAggAbort:
        return None
