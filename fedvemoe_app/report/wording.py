"""How values are written in tables and pages: one way for the terminal, HTML and Markdown."""

from __future__ import annotations

UNKNOWN = "-"
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Return the value with ``digits`` decimals, or a dash where it is not known."""
    if value is None:
        return UNKNOWN
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def change(first: float | None, last: float | None, digits: int = 2) -> str:
    """Return the first and the last value with an arrow between them."""
    return f"{number(first, digits)} \N{RIGHTWARDS ARROW} {number(last, digits)}"


def size(count: float | None) -> str:
    """Return a number of bytes in the unit in which it has one to three digits before the point."""
    if count is None:
        return UNKNOWN
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return ``seconds`` as 42 s, 3 min 05 s or 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
