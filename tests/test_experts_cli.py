"""``fedvemoe export | generate | onboard``: what a person at the terminal and a program get."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedvemoe_app.api import LoadedRun, load_run
from fedvemoe_app.cli.main import app
from fedvemoe_app.model.answers import Answer, Piece
from fedvemoe_app.report.journal import Run
from tests.federation import DEFINITION
from tests.test_cli import call, refused

ASK = ("generate", "--max-new-tokens", "3", "--definition", DEFINITION)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def expected(ended_run: Run) -> str:
    with load_run(ended_run.folder) as run:
        (answer,) = run.generate(
            "ash birch", client="silo-00", definition=DEFINITION, max_new_tokens=3
        )
    assert answer.text
    return answer.text


def test_export_lists_what_it_wrote(ended_run: Run, tmp_path: Path) -> None:
    result = call("export", ended_run.folder, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in ("slot_00", "slot_01", "mixture.json"):
        assert str(tmp_path / "out" / name) in result.output
    refused(call("export", ended_run.folder, "--output", tmp_path / "out"), "--output")


def test_export_names_a_file_that_is_missing(ended_run: Run, tmp_path: Path) -> None:
    damaged = shutil.copytree(ended_run.folder, tmp_path / "run")
    file = damaged / "experts" / "slot_00" / "adapter_config.json"
    file.unlink()
    refused(call("export", damaged, "--output", tmp_path / "out"), f"{file} is missing")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [(), ("--stream",), ("--show-experts",), ("--json",)])
def test_a_silo_answers(how: tuple[str, ...], ended_run: Run, expected: str) -> None:
    who = ("--client", "silo-00", "--prompt", "ash birch")
    result = call(*ASK, ended_run.folder, *who, *how)
    assert result.exit_code == 0, result.output
    last = result.stdout.strip().splitlines()
    if "--json" in how:
        assert json.loads(last[-1])["answer"] == expected
        return
    marked = [re.sub(r"\[[01]\]", "", line) for line in last]
    assert expected in (marked if "--show-experts" in how else last)
    assert ("[N]: expert N" in result.stdout) == ("--show-experts" in how)


@pytest.mark.parametrize("how", [(), ("--stream",)])
def test_each_stretch_of_an_answer_bears_its_expert(how: tuple[str, ...], ended_run: Run) -> None:
    def answered(*texts: str) -> Any:
        other = (0, 0, 1, 0)
        pieces = [
            Piece(text, {11: 1.0 - k, 5: float(k)}) for k, text in zip(other, texts, strict=True)
        ]

        def generate(self: LoadedRun, prompts: Any, on_piece: Any = None, **_: Any) -> list[Answer]:
            for piece in pieces if on_piece else ():
                on_piece(0, piece)
            return [Answer("".join(texts), pieces)]

        return generate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedRun, "generate", answered("a", " b", " c", " d"))
        result = call(*ASK, ended_run.folder, "--prompt", "ash", "--show-experts", *how)
    assert result.stdout.splitlines()[0] == "a b[11] c[5] d[11]"


def test_a_file_is_answered_line_by_line_with_its_experts(ended_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    other = json.dumps({"input": "oak pine", "definition": "Repeat."})
    file.write_text(f"ash birch\n\n{other}\n")
    result = call(
        *(*ASK, ended_run.folder, "--mixture", "0=0.7,1=0.3", "--share", "0.2"),
        *("--file", file, "--json", "--show-experts"),
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    asked = [(row["input"], row["definition"]) for row in rows]
    assert asked == [("ash birch", DEFINITION), ("oak pine", "Repeat.")]
    for row in rows:
        assert "".join(token["text"] for token in row["tokens"]) == row["answer"]
        assert all(set(token["experts"]) == {"0", "1"} for token in row["tokens"])


def test_without_a_question_it_asks_until_an_empty_line(ended_run: Run, expected: str) -> None:
    given = [*ASK, str(ended_run.folder), "--client", "silo-00"]
    result = CliRunner().invoke(app, given, input="ash birch\nash birch\n\nelm fir\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines().count(expected) == 2


def test_a_question_that_is_too_long_does_not_end_the_conversation(
    ended_run: Run, expected: str
) -> None:
    given = [*ASK, str(ended_run.folder), "--client", "silo-00"]
    told = CliRunner().invoke(app, given, input=f"{'ash ' * 4000}\nash birch\n\n")
    assert told.exit_code == 0, told.output
    assert "shorten it" in told.output
    assert expected in told.stdout.splitlines()


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no such silo": (("--client", "silo-77"), "silo-77"),
    "two mixtures": (("--client", "silo-00", "--mixture", "0=1"), "--mixture"),
    "no mixture": (("--mixture", "zero=1"), "slot=weight"),
    "share alone": (("--client", "silo-00", "--share", "0.1"), "--share"),
    "no file": (("--file", "/nowhere/questions"), "/nowhere/questions"),
    "two ways to show": (("--stream", "--json"), "--stream"),
    "a setting of the run": (("lora-rank=3",), "lora-rank"),
    "no such type": (("dtype=float7",), "float7"),
    "a GPU that is not there": (("device=cuda:99",), 'device = "cuda:99"'),
    "no setting at all": (("devise=cpu",), "unknown setting devise; did you mean device"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_one_reason(what: str, ended_run: Run) -> None:
    words, named = WRONG[what]
    refused(call("generate", ended_run.folder, "--prompt", "ash", *words), named)


@pytest.mark.parametrize("text", ['{"question": "ash"}', '{"input": ', "", '{"input": 3}'])
def test_a_wrong_file_names_its_line(text: str, ended_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    refused(call("generate", ended_run.folder, "--file", file), str(file), "write")


def test_onboard_shows_a_table_and_a_verdict(ended_run: Run, small_bank: Path) -> None:
    data = small_bank / "code_0.json"
    result = call("onboard", ended_run.folder, "--data", data)
    assert result.exit_code == 0, result.output
    for word in ("expert 0", "mixture", "base", "The bank helps", "local steps"):
        assert word in result.output
    result = call("onboard", ended_run.folder, "--data", data, "--no-regret", "--json")
    content = json.loads(result.stdout[result.stdout.index("{") :])
    assert content["regret"] is None
    assert content["gain"]["nats"] > 0.01
    refused(call("onboard", ended_run.folder, "--data", "/nowhere/tasks"), "/nowhere/tasks")


@pytest.mark.parametrize("command", ["export", "generate", "onboard"])
def test_the_commands_explain_themselves_and_refuse_what_is_no_run(
    command: str, tmp_path: Path
) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    more = {"export": ("--output", "x"), "onboard": ("--data", "x")}.get(command, ())
    refused(call(command, tmp_path, *more), "is not a run")
