"""The Super-NaturalInstructions scores as a metric of the ``evaluate`` library.

``SuperNI()`` and ``evaluate.load("<this file>")`` both work without a network. Answers are held in
memory, never in a cache file, so any number of processes can score at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from fedvemoe_app.evaluation.text import score

_CITATION = """\
@inproceedings{wang2022super,
  title = {Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ Tasks},
  author = {Wang, Yizhong and Mishra, Swaroop and others},
  booktitle = {EMNLP},
  year = {2022}
}"""


class SuperNI(evaluate.Metric):  # type: ignore[misc]
    """``compute(predictions, references)`` gives mean ROUGE-L and exact match in percent."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE-L and exact match, best over references, mean over instances x 100.",
            citation=_CITATION,
            inputs_description="predictions: list of texts; references: list of lists of texts.",
            features=datasets.Features({"predictions": texts, "references": datasets.List(texts)}),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        if not predictions:
            raise ValueError("there is no prediction to score")
        scores = [score(*pair) for pair in zip(predictions, references, strict=True)]
        return {
            "rouge_l": 100.0 * sum(each.rouge_l for each in scores) / len(scores),
            "exact_match": 100.0 * sum(each.exact_match for each in scores) / len(scores),
        }
