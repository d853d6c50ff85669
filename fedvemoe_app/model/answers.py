"""Answers in words: the text of a mixture, and which expert carried each piece of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.generation import ROW_CAP, Emitted, generate

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to an answer's text ("" where it only began a letter).

    ``weights`` by expert is the filter's posterior: which of the mixture carried the token.
    """

    text: str
    weights: Mapping[int, float]


@dataclass(slots=True)
class Answer:
    """A text and its pieces, one for each token; the pieces joined are the text."""

    text: str = ""
    pieces: list[Piece] = field(default_factory=list)


OnPiece = Callable[[int, Piece], object]
"""Told of each piece as it is written: the prompt's number, and the piece."""


def spelled(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of an answer's tokens, as it is scored."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return text


def write_answers(
    experts: Experts,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    weights: Tensor,
    share: float,
    *,
    names: Sequence[int],
    max_new_tokens: int,
    row_cap: int = ROW_CAP,
    on_piece: OnPiece | None = None,
) -> list[Answer]:
    """Answer each prompt greedily with the mixture ``weights`` [m] over ``slots``.

    ``names`` [m] are what the pieces call the slots; a slot without a name is not told of.
    """
    tokenizer = experts.backbone.tokenizer
    tokens: list[list[int]] = [[] for _ in prompts]
    answers = [Answer() for _ in prompts]

    def write(emitted: Emitted) -> None:
        row = emitted.row
        tokens[row].append(emitted.token)
        posterior = dict(zip(names, emitted.posterior.tolist(), strict=False))
        piece = _next_piece(answers[row], spelled(tokenizer, tokens[row]), posterior)
        if on_piece:
            on_piece(row, piece)

    generate(
        experts,
        prompts,
        slots,
        weights,
        share,
        max_new_tokens=max_new_tokens,
        row_cap=row_cap,
        on_token=write,
    )
    for row, answer in enumerate(answers):
        _finish(answer, spelled(tokenizer, tokens[row]))
    return answers


def _next_piece(answer: Answer, text: str, posterior: Mapping[int, float]) -> Piece:
    """Add what is new in ``text``; a letter whose bytes are not all there yet must wait."""
    ready = text.startswith(answer.text) and not text.endswith(_INCOMPLETE)
    piece = Piece(text[len(answer.text) :] if ready else "", posterior)
    answer.pieces.append(piece)
    answer.text += piece.text
    return piece


def _finish(answer: Answer, text: str) -> None:
    """Let the last piece carry what still waited when the answer was cut off."""
    if text != answer.text and answer.pieces:
        last = answer.pieces[-1]
        waited = text[len(answer.text) :] if text.startswith(answer.text) else ""
        answer.pieces[-1] = Piece(last.text + waited, last.weights)
    answer.text = text
