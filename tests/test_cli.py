"""The command line: every mistake ends at once with exit code 1 and a reason, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedvemoe_app.cli.main import app
from fedvemoe_app.cli.reference import settings_table
from tests.federation import Settings, federate
from tests.report.synthetic import make_run

runner = CliRunner()


@pytest.fixture(autouse=True)
def no_flower(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Note it when a simulation would have been started."""
    started: list[object] = []
    monkeypatch.setattr("fedvemoe_app.cli.launch.simulate", lambda *what: started.append(what))
    monkeypatch.setenv("COLUMNS", "200")
    yield started
    assert started == []


def words(settings: Settings) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def call(*arguments: str | Path) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *named: str) -> None:
    """Check that the command ended as one readable reason that names the mistake."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.count("error:") == 1
    assert "Traceback" not in result.output
    for name in named:
        assert name in result.output


WRONG: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown key": (["k-inti=3"], ("k-inti", "did you mean k-init")),
    "no word of the settings": (["fast"], ('"fast"', "key=value")),
    "text for a number": (["k-init=many"], ("k-init = many", "int")),
    "fraction for a count": (["k-init=2.5"], ("k-init = 2.5", "int")),
    "text for a truth": (["use-4bit=maybe"], ("use-4bit = maybe", "bool")),
    "out of range": (["rho=1.5"], ("rho = 1.5", "at most 1")),
    "unknown choice": (["start=later"], ("start", "sketch, random, none")),
    "at odds": (["k-init=9", "k-max=4"], ("k-init = 9", "k-max = 4")),
    "no such device": (["device=gpu"], ('device = "gpu"', "cuda:N")),
    "a GPU that is not there": (["device=cuda:99"], ('device = "cuda:99"', "use auto or cpu")),
    "no such folder": (["dataset-name=/nowhere/tasks"], ("/nowhere/tasks",)),
    "no such base": (["model-name=/nowhere/base"], ("/nowhere/base",)),
    "no such layer": (["target-modules=q_prj"], ("target-modules: q_prj", "q_proj", "all-linear")),
    "no task of a category": (["keyword-categories=poetry"], ("poetry",)),
    "no keyword file": (["keyword-file=/nowhere/words.toml"], ("/nowhere/words.toml",)),
    "no map file": (
        ["client-task-mode=explicit", "assignment-file=/nowhere/map.json"],
        ("/nowhere/map.json",),
    ),
    "no map at all": (["client-task-mode=explicit"], ("assignment-file",)),
    "no baselines": (["local-baseline-json=/nowhere/b.json"], ("local-baseline-json",)),
    "more silos needed": (["min-silos=9"], ("--silos 4", "min-silos = 9")),
    "sample too small": (["fraction-train=0.25"], ("fraction-train", "min-silos")),
    "no such tracker": (["trackers=tensorbord"], ("tensorbord is not known", "wandb")),
    "fewer GPUs than none": (["--gpus-per-silo", "-1"], ("--gpus-per-silo -1", "0 for none")),
    "one GPU and a half": (["--gpus-per-silo", "1.5"], ("--gpus-per-silo 1.5", "whole ones")),
    "GPUs on a machine without": (["--gpus-per-silo", "64"], ("--gpus-per-silo 64", "GPUs here")),
    "no place for results": (["log-dir=/proc/nowhere"], ("log-dir = /proc/nowhere", "write to")),
    "no folder of a base": (["model-name=./nowhere"], ("./nowhere: no such folder", "builtin:")),
    "a path as name": (["run-name=a/b"], ("run-name", "log-dir")),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_settings_are_named_before_flower_starts(
    what: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given, named = WRONG[what]
    result = call("run", "--silos", "4", *words({**settings(), "run-name": "wrong"}), *given)
    refused(result, *named)
    assert not (tmp_path / "wrong").exists()


def test_an_existing_run_is_never_written_over(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    result = call("run", "--silos", "4", *words(settings(run_name="mine")))
    refused(result, str(tmp_path / "mine"), "run-name")
    assert list((tmp_path / "mine").iterdir()) == []


FILES = {
    "missing": (None, "cannot be read"),
    "no TOML": ("k-init = = 3", "is not TOML"),
    "a table": ("[em]\nk-init = 3", "em must be a plain key = value"),
    "unknown key": ("k-inti = 3", "did you mean k-init"),
    "wrong type": ('k-init = "3"', 'k-init = "3": must be of type int'),
}


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_settings_file_is_named(what: str, tmp_path: Path) -> None:
    text, reason = FILES[what]
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    refused(call("run", "-c", file), reason, str(file))
    refused(call("data", "inspect", "-c", file), reason, str(file))


def test_a_good_run_reaches_flower_with_its_settings(
    settings: Callable[..., Settings], tmp_path: Path, no_flower: list[object]
) -> None:
    def stop(*what: object) -> None:
        no_flower.append(what)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvemoe_app.cli.launch.simulate", stop)
        result = call("run", "--silos", "3", *words(settings(run_name="good", k_init=3)))
    assert result.exit_code != 0
    ((flat, resources, log, _),) = no_flower  # type: ignore[misc]
    no_flower.clear()
    assert flat["k-init"] == 3
    assert flat["run-name"] == "good"
    assert flat["rho"] == 0.15
    assert resources.silos == 3
    assert log == tmp_path / "good.log"


def test_report_draws_and_prints_a_run_from_its_folder(settings: Callable[..., Settings]) -> None:
    run = federate(settings(num_server_rounds=1, generate_examples=0, eval_examples=2))
    assert not (run.folder / "plots").exists()
    assert (run.folder / "report.html").is_file()
    result = call("report", run.folder)
    assert result.exit_code == 0, result.output
    assert len(list((run.folder / "plots").glob("*.png"))) == 4
    assert str(run.folder) in result.output


def test_report_of_something_else_is_refused(tmp_path: Path) -> None:
    refused(call("report", tmp_path), str(tmp_path), "config.json")


def test_errors_do_not_mix_with_what_programs_read(tmp_path: Path) -> None:
    result = call("report", tmp_path)
    assert result.stdout == ""
    assert "error:" in result.stderr


def test_report_names_a_damaged_row(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 5}\n')
    refused(call("report", run.folder), "rounds.jsonl, line 3", "strategy")


def test_inspect_shows_who_holds_what(small_bank: Path) -> None:
    result = call("data", "inspect", "--silos", "4", f"dataset-name={small_bank}")
    assert result.exit_code == 0, result.output
    for name in ("silo-00", "silo-03", "translation_1", "rewriting_0"):
        assert name in result.output


def test_inspect_names_a_missing_bank() -> None:
    refused(call("data", "inspect", "dataset-name=/nowhere/tasks"), "/nowhere/tasks")


def test_build_names_what_is_wrong(tmp_path: Path) -> None:
    refused(call("base", "build", "--bank", tmp_path / "none"), str(tmp_path / "none"))
    refused(call("base", "build", "--size", "huge"), "huge", "tiny")


def test_settings_are_printed_as_the_documentation_has_them() -> None:
    result = call("settings")
    assert result.exit_code == 0
    assert result.output == settings_table()


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["report"], ["figure"], ["compare"], ["table"], ["data", "inspect"], ["base"]],
)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
