"""From the name of a base to its folder: ``builtin:tiny`` is built once, others are passed on."""

from __future__ import annotations

from fedvemoe_app.model.base_build import Progress, builtin_base

BUILTIN = {"builtin:tiny": "tiny", "builtin:small": "small"}


def locate(name: str, on_progress: Progress | None = None) -> str:
    """Return what transformers can load for ``name``, building an embedded base if need be."""
    if name in BUILTIN:
        return str(builtin_base(BUILTIN[name], on_progress))  # type: ignore[arg-type]
    return name
