"""Commands in the documentation exist: their options, their arguments, and every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from fedvemoe_app.cli.main import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.overrides import gather
from tests.docs.pages import PAGES, ROOT, Line, command_lines, spoken_commands, text_of

TREE = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
EXAMPLE = re.compile(r"\[bold\](fedvemoe .*?)\[/bold\]", re.DOTALL)
INCOMPLETE = re.compile(r"^Missing (argument|option)")
PLACEHOLDER = re.compile(r"^[A-Z_]{3,}$")


def examples(command: click.Command) -> Iterator[str]:
    """Yield the examples in the help of a command and of those below it."""
    yield from (" ".join(found.split()) for found in EXAMPLE.findall(command.help or ""))
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from examples(child)


def of(program: str, lines: Iterator[Line]) -> list[Line]:
    return [line for line in lines if line.words and line.words[0] == program]


WRITTEN = [line for page in PAGES for line in of("fedvemoe", command_lines(page))]
SPOKEN = [line for page in PAGES for line in spoken_commands(page, "fedvemoe")]
HELPED = [Line("help", text) for text in examples(TREE)]


def check(line: Line, *, whole: bool) -> None:
    """Parse a command as it would be when called, without calling it."""
    words = line.words[1 : line.words.index("|") if "|" in line.words else None]
    command: click.Command = TREE
    context = click.Context(TREE, info_name="fedvemoe")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
        context = click.Context(command, info_name=name, parent=context)
    if {"--help", "--version", "--install-completion"} & set(words):
        return
    try:
        with context:
            command.parse_args(context, list(words))
    except click.UsageError as error:
        incomplete = INCOMPLETE.match(error.format_message())
        if whole or not incomplete:
            pytest.fail(f"{line}: {error.format_message()}")
    check_settings(line, [word for word in words if re.match(r"^[a-z0-9-]+=", word)])


def check_settings(line: Line, words: list[str]) -> None:
    """Check each setting by itself; values in capitals stand for the reader's own."""
    for word in words:
        key, _, value = word.partition("=")
        if key.isdigit():
            continue  # weights by slot, the value of --mixture
        assert key in RunConfig().to_flat(), str(line)
        if not PLACEHOLDER.match(value):
            RunConfig.from_flat({**COMPANY.get(word, {}), **gather(RunConfig, None, [word])})


COMPANY: dict[str, dict[str, str]] = {
    "client-task-mode=explicit": {"assignment-file": "map.json"},
}
"""What a setting needs beside it to be accepted."""


@pytest.mark.parametrize("line", WRITTEN, ids=str)
def test_a_command_in_a_block_can_be_called(line: Line) -> None:
    check(line, whole=True)


@pytest.mark.parametrize("line", HELPED, ids=str)
def test_an_example_in_the_help_can_be_called(line: Line) -> None:
    check(line, whole=True)


@pytest.mark.parametrize("line", SPOKEN, ids=str)
def test_a_command_in_the_text_exists(line: Line) -> None:
    check(line, whole=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page: Path) -> None:
    lines = [*of("make", command_lines(page)), *spoken_commands(page, "make")]
    for line in lines:
        targets = [word for word in line.words[1:] if "=" not in word and not word.startswith("-")]
        assert set(targets) <= TARGETS, str(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_are_known_and_their_values_accepted(page: Path) -> None:
    known = RunConfig().to_flat()
    for span in re.findall(r"`([a-z0-9-]+(?: = |=)[^`\n]*)`", text_of(page)):
        for word in re.sub(r" = ", "=", span).split():
            key, _, value = word.partition("=")
            if key in known and value and not re.search(r"[A-Z|=]|^\.", value):
                RunConfig.from_flat({**COMPANY.get(word, {}), **gather(RunConfig, None, [word])})


def test_a_wrong_line_is_found() -> None:
    for text in (
        "fedvemoe rum",
        "fedvemoe run --silo 4",
        "fedvemoe run k-inti=3",
        "fedvemoe run k-init=three",
        "fedvemoe report",
        "fedvemoe report one two",
        "fedvemoe run privacy=none rho=7",
    ):
        with pytest.raises((Exception, pytest.fail.Exception)):
            check(Line("here", text), whole=True)
    assert len(WRITTEN) > 30
    assert len(HELPED) > 15
