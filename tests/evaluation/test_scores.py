from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvemoe_app.evaluation.scores import Score, pool

counts = st.integers(0, 10**6).map(float)
scores = st.builds(Score, counts, counts, counts, counts, counts, counts)


def test_divided_once_at_the_end() -> None:
    small, large = Score(nll=1.0, tokens=1), Score(nll=18.0, tokens=9)
    assert (small + large).ppl == pytest.approx(math.exp(1.9))


def test_percentages() -> None:
    score = Score(rouge_l=1.5, exact_match=1, examples=4)
    assert (score.rouge_l_percent, score.exact_match_percent) == (37.5, 25.0)


def test_nothing_scored_is_none_not_zero() -> None:
    zero = Score()
    assert (zero.ppl, zero.rouge_l_percent, zero.exact_match_percent) == (None, None, None)


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    assert Score(nll=1e6, tokens=1).ppl == math.inf


@given(st.lists(scores, max_size=5))
def test_a_sum_of_arrays_is_the_array_of_the_sum(parts: list[Score]) -> None:
    total = sum((part.to_array() for part in parts), start=np.zeros(6))
    assert Score.from_array(total) == pool(parts)
    assert pool(parts) + Score() == pool(parts)


def test_order_on_the_wire_is_fixed() -> None:
    array = Score(1, 2, 3, 4, 5, 6).to_array()
    assert array.dtype == np.float64
    assert array.tolist() == [1, 2, 3, 4, 5, 6]
    assert Score.from_array(array) == Score(
        nll=1, tokens=2, rouge_l=3, exact_match=4, examples=5, sequences=6
    )


def test_an_array_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="6 sums"):
        Score.from_array(np.zeros(5))
