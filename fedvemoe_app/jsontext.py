"""JSON that somebody else wrote: read only where it is short enough and not too deep.

Every decoder of this package that reads JSON goes through ``parse``, so that whatever a peer or a
damaged file holds is one kind of error, found before much memory is taken: parsed, a text takes at
most about thirty times its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_BYTES = 2**26
"""Characters or bytes that are read at most, unless the reader allows fewer or more."""


def parse(
    text: str | bytes,
    most: int = MOST_BYTES,
    object_hook: Callable[[dict[str, Any]], object] | None = None,
) -> Any:
    """Return what ``text`` says; ``object_hook`` as in ``json.loads``.

    Raises
    ------
    ValueError
        Where it is no JSON, longer than ``most``, nested too deeply, or no UTF-8.
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} characters of JSON; at most {most} are read here")
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
