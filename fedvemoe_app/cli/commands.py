"""How commands are declared: every word is explained, and settings can be completed by the shell.

A command shows the help of its arguments, belongs to a panel of ``fedvemoe --help``, and takes
settings as words and as a file in the same way everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo

from fedvemoe_app.config import MACHINE, RunConfig
from fedvemoe_app.settings import Leaf, Value, leaves

Function = TypeVar("Function", bound=Callable[..., Any])

STRATEGIES = (
    *("fedvemoe", "fedavg", "fedprox", "fedadam", "fedyogi"),
    *("ifca", "fedem", "ditto", "local"),
)
"""What the registry has; to import that takes longer than a person waits for a completion."""


class Explained(TyperCommand):
    """A command whose arguments keep their help: click 8.5 drops what typer 0.20 gave them."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        hints = get_type_hints(inspect.unwrap(self.callback), include_extras=True)  # type: ignore[arg-type]
        for param in self.params:
            if isinstance(param, TyperArgument) and not param.help:
                param.help = _declared(hints.get(param.name or ""))


class Commands(typer.Typer):
    """A group of commands, shown together under ``panel`` in the help of the whole."""

    def __init__(self, panel: str | None = None, **options: Any) -> None:
        # click suggests commands itself
        super().__init__(rich_markup_mode="rich", suggest_commands=False, **options)
        self._panel = panel

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Register a function as a command; see ``typer.Typer.command``."""
        options = {"cls": Explained, "rich_help_panel": self._panel, **options}
        return super().command(name, **options)


def settings_that_begin(incomplete: str) -> list[str]:
    """Return completions of a word that is a setting: its key, then the values it may take."""
    return _completed(incomplete, leaves(RunConfig))


def machine_settings_that_begin(incomplete: str) -> list[str]:
    """Return the same of the settings that may change once a run has ended."""
    return _completed(incomplete, (leaf for leaf in leaves(RunConfig) if leaf.key in MACHINE))


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Return what completes an option that takes one of ``words``."""

    def completed(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return completed


def _completed(incomplete: str, settings: Iterable[Leaf]) -> list[str]:
    key, equals, _ = incomplete.partition("=")
    known = {leaf.key: leaf for leaf in settings}
    if not equals:
        return [f"{each}=" for each in known if each.startswith(key)]
    words = [f"{key}={value}" for value in _values(known[key])] if key in known else []
    return [word for word in words if word.startswith(incomplete)]


def _values(leaf: Leaf) -> tuple[Value, ...]:
    if leaf.key == "strategy":
        return STRATEGIES
    return leaf.choices or _truths(leaf.kind)


def _truths(kind: type) -> tuple[str, ...]:
    return ("true", "false") if kind is bool else ()


def _declared(hint: Any) -> str | None:
    """Return the help in an annotation ``Annotated[..., typer.Argument(help=...)]``."""
    infos = [part for part in get_args(hint)[1:] if isinstance(part, ArgumentInfo)]
    return infos[0].help if infos else None


SettingsFile = Annotated[
    Path | None,
    typer.Option("--run-config", "-c", help="TOML file of settings; words win over it."),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings, such as k-init=3; fedvemoe settings lists them all.",
        autocompletion=settings_that_begin,
    ),
]
