from __future__ import annotations

import pytest

from fedvemoe_app.evaluation.text import TextScore, normalize, score


def test_perfect_answer() -> None:
    assert score("The cat sat.", ["The cat sat."]) == TextScore(1.0, 1)


def test_best_reference_counts_for_each_score_alone() -> None:
    assert score("a dog runs", ["a cat sleeps", "a dog ran", "a dog runs"]) == (1.0, 1)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # LCS "b d" of 3 against 4 words: P = 2/3, R = 2/4.
    assert score("b x d", ["a b c d"]).rouge_l == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_rouge_stems_and_exact_match_does_not() -> None:
    assert score("jumping", ["jumped"]) == (1.0, 0)


def test_exact_match_ignores_case_punctuation_and_blanks_but_keeps_articles() -> None:
    assert normalize("  The  Cat,\n sat! ") == "the cat sat"
    assert score("yes.", ["Yes"]).exact_match == 1
    assert score("the answer", ["answer"]).exact_match == 0


@pytest.mark.parametrize("prediction", ["", "   ", "..."])
def test_an_empty_answer_scores_nothing(prediction: str) -> None:
    assert score(prediction, ["cat"]) == (0.0, 0)


def test_cyrillic_has_no_rouge_tokens_but_can_match_exactly() -> None:
    assert score("да", ["Да"]) == (0.0, 1)


@pytest.mark.parametrize("references", [[], "one text"])
def test_references_must_be_a_list_of_texts(references: list[str]) -> None:
    with pytest.raises(ValueError, match="references must be a sequence"):
        score("a", references)
