"""What ``fedvemoe generate`` asks and how it shows the answers: whole, streamed, or by expert."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console
from rich.text import Text

from fedvemoe_app.api import LoadedRun
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.errors import DataError, SettingError
from fedvemoe_app.model.answers import Answer, Piece
from fedvemoe_app.report import mixtures
from fedvemoe_app.report.mixtures import Mixture

LEGEND = "[N]: expert N carried the text before it"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its task's definition ("" where there is none)."""

    text: str
    definition: str


@dataclass(slots=True)
class Marks:
    """Puts behind each stretch of an answer the number of the expert that carried it."""

    expert: int | None = None

    def piece(self, piece: Piece) -> Text:
        """Return the piece, after the mark of what came before it where another expert begins."""
        if not piece.text:
            return Text()
        main = max(piece.weights, key=lambda slot: piece.weights[slot])
        mark = Text() if main == self.expert else self.end()
        self.expert = main
        return Text.assemble(mark, piece.text)

    def end(self) -> Text:
        """Return the mark of the last stretch."""
        return Text("" if self.expert is None else f"[{self.expert}]", style="bold cyan")


@dataclass(frozen=True, slots=True)
class Asking:
    """A run, the mixture that answers, and how its answers are shown."""

    run: LoadedRun
    mixture: Mixture
    max_new_tokens: int | None
    stream: bool
    show_experts: bool
    as_json: bool

    @classmethod
    def of(
        cls,
        run: LoadedRun,
        *,
        client: str | None,
        mixture: str | None,
        share: float | None,
        **shown: Any,
    ) -> Self:
        """Find the mixture before the base is loaded.

        Raises
        ------
        RunError, SettingError
            If there is no such silo, or the mixture cannot be read.
        """
        if client is not None and mixture is not None:
            raise SettingError("--client and --mixture both say who answers: give one of them")
        if shown["stream"] and shown["as_json"]:
            raise SettingError("--stream writes text as it grows, --json whole lines: give one")
        if share is not None and mixture is None:
            raise SettingError("--share goes with --mixture: a silo has its own")
        if mixture is not None:
            slots = [expert.slot for expert in run.experts]
            chosen = mixtures.parse(mixture, slots, mixtures.SHARE if share is None else share)
        else:
            chosen = run.prior if client is None else run.mixture(client)
        return cls(run, chosen, **shown)

    @property
    def marked(self) -> bool:
        """Whether answers bear marks of experts; the bare base has none."""
        return self.show_experts and not self.as_json and bool(self.mixture.weights)

    def ask(self, questions: Sequence[Question], console: Console) -> None:
        """Answer all questions: in one batch, or one after another where they are streamed."""
        if self.stream:
            for question in questions:
                self._stream(question, console)
        else:
            for question, answer in zip(questions, self._answer(questions), strict=True):
                self._show(question, answer, console)
        if self.marked:
            console.print(Text(LEGEND, style="dim"))

    def _answer(self, questions: Sequence[Question], on_piece: Any = None) -> list[Answer]:
        return self.run.generate(
            [question.text for question in questions],
            definition=[question.definition for question in questions],
            mixture=self.mixture,
            max_new_tokens=self.max_new_tokens,
            on_piece=on_piece,
        )

    def _stream(self, question: Question, console: Console) -> None:
        marks = Marks()

        def show(_: int, piece: Piece) -> None:
            console.print(marks.piece(piece) if self.marked else Text(piece.text), end="")
            console.file.flush()

        self._answer([question], show)
        console.print(marks.end())

    def _show(self, question: Question, answer: Answer, console: Console) -> None:
        if self.as_json:
            print(json.dumps(self._row(question, answer), ensure_ascii=False))
            return
        marks = Marks()
        shown = map(marks.piece, answer.pieces) if self.marked else (Text(answer.text),)
        console.print(Text.assemble(*shown, marks.end()))

    def _row(self, question: Question, answer: Answer) -> dict[str, Any]:
        row: dict[str, Any] = {"input": question.text, "answer": answer.text}
        if question.definition:
            row["definition"] = question.definition
        if self.show_experts:
            row["tokens"] = [
                {"text": piece.text, "experts": dict(piece.weights)} for piece in answer.pieces
            ]
        return row


def converse(asking: Asking, definition: str, console: Console) -> None:
    """Ask for questions until an empty line or the end of the input."""
    person = sys.stdin.isatty()
    if person:
        console.print("One question a line; an empty line ends.", style="dim")
    while True:
        if person:
            console.print("[bold]> [/bold]", end="")
        line = sys.stdin.readline().strip()
        if not line:
            return
        with suppress(typer.Exit), readable_errors():  # the next question may be better
            asking.ask([Question(line, definition)], console)


def read_questions(
    prompts: Sequence[str], file: Path | None, definition: str
) -> list[Question] | None:
    """Return the questions of the command line and then of the file; None where neither is given.

    Raises
    ------
    DataError
        If the file cannot be read, is empty, or a line of it is JSON without ``input``.
    """
    if not prompts and file is None:
        return None
    given = [Question(text, definition) for text in prompts]
    return [*given, *(_from_file(file, definition) if file else ())]


def _from_file(file: Path, definition: str) -> list[Question]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); --file takes questions, one a line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8; write one question a line") from error
    found = [
        _question(line, definition, f"{file}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"{file} holds no question; write one a line")
    return found


def _question(line: str, definition: str, where: str) -> Question:
    if not line.lstrip().startswith("{"):
        return Question(line, definition)
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{where}: begins as JSON and is none ({error}); write "
            '{"input": "...", "definition": "..."}, or plain text'
        ) from error
    text, own = row.get("input"), row.get("definition", definition)
    if not isinstance(text, str) or not isinstance(own, str):
        raise DataError(f'{where}: write {{"input": TEXT, "definition": TEXT (optional)}}')
    return Question(text, own)
