"""What a new user meets first: help that explains, completion, and no noise of other libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.core import TyperArgument
from typer.testing import CliRunner

from fedvemoe_app import __version__
from fedvemoe_app.cli.commands import machine_settings_that_begin, settings_that_begin
from fedvemoe_app.cli.main import app
from fedvemoe_app.strategies.registry import STRATEGIES


def leaves_of(
    command: click.Command, *path: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command that does something, with the words that call it."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves_of(child, *path, name)
    else:
        yield path, command


COMMANDS = dict(leaves_of(typer.main.get_command(app)))


def call(*words: str) -> str:
    found = CliRunner().invoke(app, list(words), env={"COLUMNS": "300", "TERM": "dumb"})
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_and_explains_its_words(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    shown = call(*path, "--help")
    assert f"fedvemoe {' '.join(path)}" in (command.help or ""), "no example"
    for param in command.params:
        assert isinstance(param, click.Option | TyperArgument)
        assert param.help, f"{param.name} is not explained"
        assert param.help.split("[")[0].strip()[:40] in shown


def test_the_whole_help_lists_every_command_and_the_version_is_said() -> None:
    shown = call("--help")
    assert all(path[0] in shown for path in COMMANDS)
    assert "Begin with: fedvemoe doctor" in shown
    assert call("--version").strip() == f"fedvemoe {__version__}"


def test_a_mistyped_command_is_answered_with_the_nearest_once() -> None:
    found = CliRunner().invoke(app, ["rum"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert found.exit_code == 2
    assert found.output.count("Did you mean") == 1
    assert "'run'" in found.output


def test_settings_are_completed_by_key_and_by_value() -> None:
    assert settings_that_begin("k-") == ["k-init=", "k-max="]
    assert settings_that_begin("privacy=s") == ["privacy=secagg", "privacy=sim"]
    assert settings_that_begin("use-4bit=") == ["use-4bit=true", "use-4bit=false"]
    assert settings_that_begin("no-such=") == []
    assert settings_that_begin("strategy=") == [f"strategy={name}" for name in STRATEGIES]


def test_a_shell_gets_commands_and_settings_to_choose_from() -> None:
    for words, at, expected in (
        ("fedvemoe ex", "1", "export"),
        ("fedvemoe run top", "2", "top-m="),
        ("fedvemoe generate runs/one dev", "3", "device="),
        ("fedvemoe table runs/one --format par", "4", "parquet"),
        ("fedvemoe figure runs/one --format p", "4", "pdf"),
        ("fedvemoe base build --size s", "4", "small"),
    ):
        asked = {"_FEDVEMOE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
        done = CliRunner().invoke(app, [], env=asked, prog_name="fedvemoe")
        assert expected in done.output.split()


def test_a_finished_run_is_offered_only_settings_of_the_machine() -> None:
    assert machine_settings_that_begin("k-") == []
    assert machine_settings_that_begin("d") == ["dtype=", "device="]
    assert "dtype=bfloat16" in machine_settings_that_begin("dtype=")


def test_bitsandbytes_says_nothing_of_a_kernel_that_nobody_asked_for(tmp_path: Path) -> None:
    """The warning depends on the machine; so it is sent from the logger that sends it."""
    code = (
        "import logging, fedvemoe_app.model\n"
        "log = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
        "log.warning('Failed to load CPU gemm_4bit_forward from kernels-community: %s', 1)\n"
        "log.warning('something else')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "something else"
