"""Typed settings: a tree of frozen dataclasses read from one flat, hyphenated mapping.

Flower hands an app a flat run configuration whose types it does not check. ``read`` checks
every key, and every error says the key, the value and the fix. The settings themselves are in
``fedvemoe_app.config``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from fedvemoe_app.errors import SettingError

Value = bool | int | float | str
Tree = TypeVar("Tree")


def setting(
    default: Value,
    meaning: str,
    *,
    choices: tuple[Value, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one setting with its default, what it means, and the values it may take."""
    bounds = {"meaning": meaning, "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting as declared: where it stands in the tree and what it accepts."""

    key: str
    group: str
    kind: type
    default: Value
    meaning: str
    choices: tuple[Value, ...]
    low: float | None
    high: float | None

    @property
    def allowed(self) -> str:
        """The accepted values in words, for errors and the documentation table."""
        if self.choices:
            return " | ".join(map(str, self.choices))
        limits = [("at least", self.low), ("at most", self.high)]
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        return words or {bool: "true | false", str: "text"}.get(self.kind, "any number")

    def check(self, value: object) -> Value:
        """Return ``value`` in the setting's type; SettingError where it is not accepted."""
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            self._refuse(value, f"must be of type {self.kind.__name__}")
        if self.choices and value not in self.choices:
            self._refuse(value, f"must be one of: {', '.join(map(str, self.choices))}")
        if isinstance(value, int | float):
            self._check_number(value)
        return cast(Value, value)

    def _check_number(self, value: int | float) -> None:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= value <= high:
            self._refuse(value, f"must be {self.allowed}")
        if math.isinf(value):
            self._refuse(value, "must be finite")

    def _refuse(self, value: object, fix: str) -> None:
        shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
        raise SettingError(f"{self.key} = {shown}: {fix}")


def leaves(tree: type, group: str = "") -> Iterator[Leaf]:
    """Yield the settings of a tree of dataclasses in the order in which they are declared."""
    hints = _hints(tree)
    for item in fields(tree):
        kind = hints[item.name]
        if is_dataclass(kind):
            yield from leaves(kind, item.name)  # type: ignore[arg-type]
        else:
            default = cast(Value, item.default)
            yield Leaf(hyphenated(item.name), group, kind, default, **item.metadata)


@cache
def _hints(tree: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields: a silo reads its settings in every message."""
    return get_type_hints(tree)


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a text that names things separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def hyphenated(name: str) -> str:
    """Return the key of the field ``name``: ``top_m`` is ``top-m``."""
    return name.replace("_", "-")


def read(tree: type[Tree], flat: Mapping[str, object]) -> Tree:
    """Build the tree from ``flat``; keys that are not given keep their defaults."""
    known = by_key(cast(type, tree))
    require_known(flat, known)
    checked = {key: known[key].check(value) for key, value in flat.items()}
    return _build(tree, checked)


@cache
def by_key(tree: type) -> Mapping[str, Leaf]:
    """Return a tree's settings by key."""
    return {leaf.key: leaf for leaf in leaves(tree)}


def require_known(keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise SettingError, with the nearest that there is, where a key is not ``known``."""
    names = list(known)
    for key in keys:
        if key not in names:
            raise SettingError(f"unknown setting {key}{_suggestion(key, names)}")


def _build(tree: type[Tree], checked: Mapping[str, Value]) -> Tree:
    hints = _hints(cast(type, tree))
    values: dict[str, Any] = {}
    for item in fields(tree):  # type: ignore[arg-type]
        if is_dataclass(hints[item.name]):
            values[item.name] = _build(hints[item.name], checked)
        elif hyphenated(item.name) in checked:
            values[item.name] = checked[hyphenated(item.name)]
    return tree(**values)


def flatten(settings: object) -> dict[str, Value]:
    """Return the tree as the flat mapping that ``read`` would build it from."""
    flat: dict[str, Value] = {}
    for item in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        flat |= flatten(value) if is_dataclass(value) else {hyphenated(item.name): value}
    return flat


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
        hyphenated(key), known, n=1
    )
    return f"; did you mean {near[0]}?" if near else "; see docs/configuration.md for all settings"
