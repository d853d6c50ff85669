"""HTML that escapes by construction: whatever is not markup already becomes text.

Names of tasks, silos and settings come from data, so nothing else may write a tag.
"""

from __future__ import annotations

from html import escape

_VOID = frozenset({"meta", "img", "br"})


class Markup(str):
    """Text that is HTML already; only ``tag`` and the page's own constants make it."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return one element; ``class_`` and ``data_v`` are written class and data-v.

    Children that are not Markup are escaped, and so is every attribute; None leaves one out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Return the children one after another, escaped where they are not Markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(str(child)) for child in children)
    )
