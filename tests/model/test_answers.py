"""Answers in words: pieces that join to the text, and the expert that carried each."""

from __future__ import annotations

import pytest
import torch

from fedvemoe_app.model.answers import Answer, _finish, _next_piece, spelled, write_answers
from fedvemoe_app.model.generation import Emitted, generate
from tests.model import tiny
from tests.model.test_generation import PROMPTS, WEIGHTS, naive, next_log_p


@pytest.mark.parametrize("row_cap", [1, 10_000])
def test_every_token_is_told_in_order_and_none_after_the_end(attach, row_cap):
    experts = attach()
    tiny.randomise(experts, scale=0.15)
    told: dict[int, list[int]] = {row: [] for row in range(len(PROMPTS))}

    def tell(emitted: Emitted) -> None:
        told[emitted.row].append(emitted.token)

    options = {"max_new_tokens": 8, "row_cap": row_cap}
    found = generate(experts, PROMPTS, [2, 0], WEIGHTS, 0.1, on_token=tell, **options)
    assert found == generate(experts, PROMPTS, [2, 0], WEIGHTS, 0.1, **options)
    assert [told[row] for row in range(len(PROMPTS))] == found


def test_an_early_end_ends_the_telling(attach):
    experts = attach()
    tiny.randomise(experts)
    free = generate(experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=8)
    settings = experts.backbone.model.generation_config
    settings.eos_token_id = [tiny.EOS, max(free, key=len)[2]]
    told: list[Emitted] = []
    try:
        cut = generate(
            experts, PROMPTS, [0, 1], WEIGHTS, 0.1, max_new_tokens=8, on_token=told.append
        )
    finally:
        settings.eos_token_id = [tiny.EOS]
    assert cut != free
    assert [[e.token for e in told if e.row == row] for row in range(len(cut))] == cut


def test_the_posterior_is_the_naive_one(attach):
    experts = attach()
    tiny.randomise(experts, scale=0.15)
    told: list[Emitted] = []
    eps, prompt = 0.2, PROMPTS[0]
    generate(experts, [prompt], [2, 0], WEIGHTS, eps, max_new_tokens=5, on_token=told.append)
    share, tokens = WEIGHTS.double(), list(prompt)
    assert [e.token for e in told] == naive(experts, prompt, [2, 0], WEIGHTS, eps, 5)
    for emitted in told:
        joint = share * next_log_p(experts, [2, 0], tokens).exp()[:, emitted.token]
        torch.testing.assert_close(emitted.posterior, joint / joint.sum(), atol=1e-5, rtol=1e-4)
        share = (1 - eps) * joint / joint.sum() + eps * WEIGHTS.double()
        tokens.append(emitted.token)


def test_pieces_join_to_the_text_and_name_the_experts(attach):
    experts = attach()
    tiny.randomise(experts, scale=0.15)
    heard: list[str] = []
    answers = write_answers(
        experts,
        PROMPTS,
        [2, 0],
        WEIGHTS,
        0.1,
        names=[7, 3],
        max_new_tokens=6,
        on_piece=lambda row, piece: heard.append(piece.text) if row == 1 else None,
    )
    tokens = generate(experts, PROMPTS, [2, 0], WEIGHTS, 0.1, max_new_tokens=6)
    tokenizer = experts.backbone.tokenizer
    assert [answer.text for answer in answers] == [spelled(tokenizer, ids) for ids in tokens]
    for answer, ids in zip(answers, tokens, strict=True):
        assert "".join(piece.text for piece in answer.pieces) == answer.text
        assert len(answer.pieces) == len(ids)
        for piece in answer.pieces:
            assert set(piece.weights) == {7, 3}
            assert sum(piece.weights.values()) == pytest.approx(1.0)
    assert "".join(heard) == answers[1].text


def test_a_letter_waits_for_its_last_byte():
    answer = Answer()
    texts = ["a", "a \N{REPLACEMENT CHARACTER}", "a é", "a é\N{REPLACEMENT CHARACTER}"]
    pieces = [_next_piece(answer, text, {}).text for text in texts]
    assert pieces == ["a", "", " é", ""]
    _finish(answer, texts[-1])
    assert answer.pieces[-1].text == "\N{REPLACEMENT CHARACTER}"
    assert answer.text == texts[-1]
