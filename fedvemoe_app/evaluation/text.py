"""Official Super-NaturalInstructions text scores, per answer: ROUGE-L and exact match.

Both are the best over the references of an instance (Wang et al. 2022, ``compute_metrics.py``
of the Tk-Instruct repository). The English track is followed throughout.

* ROUGE-L is the F1 of the longest common subsequence. The tokenizer of ``rouge_score`` lower-cases,
  turns everything but ``a-z0-9`` into a blank and Porter-stems words longer than three letters.
  A text without a single ASCII letter or digit (Cyrillic, Chinese) has no token left and scores 0,
  even when it equals its reference; "Größe" is read as the two words "gr" and "e". The official
  code uses another tokenizer for the cross-lingual track alone.
* Exact match lower-cases, deletes ASCII punctuation and collapses blanks. Articles stay, and so
  do letters of every script.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextScore(NamedTuple):
    """How well one answer matches: ``rouge_l`` in [0, 1], ``exact_match`` 0 or 1."""

    rouge_l: float
    exact_match: int


def normalize(text: str) -> str:
    """Return ``text`` as exact match compares it."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def score(prediction: str, references: Sequence[str]) -> TextScore:
    """Score one answer against every reference and keep the best of each score.

    Raises
    ------
    ValueError
        Where ``references`` is empty, or one string where a sequence of them is meant.
    """
    if isinstance(references, str) or not references:
        raise ValueError(f"references must be a sequence of one or more texts, not {references!r}")
    scorer = _scorer()
    rouge_l = max(scorer.score(text, prediction)["rougeL"].fmeasure for text in references)
    exact_match = normalize(prediction) in map(normalize, references)
    return TextScore(float(rouge_l), int(exact_match))


@cache
def _scorer() -> RougeScorer:
    """Build the scorer once: stemming ROUGE-L, as in the official code.

    Its import takes pandas, scipy and scikit-learn along, which no other step of a silo needs.
    """
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
