"""A silo's test: perplexity of the proper mixture, and answers scored as Super-NI scores them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from fedvemoe_app.data.batches import Example
from fedvemoe_app.em.mixture import filtered
from fedvemoe_app.em.round import Belief
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.text import score
from fedvemoe_app.model.answers import spelled
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.model.generation import generate


def evaluate(family: LanguageFamily, belief: Belief, *, max_new_tokens: int) -> dict[str, Score]:
    """Return the scores of a silo's test examples by task, under the experts now loaded."""
    slots = torch.nonzero(belief.predict).flatten().tolist()
    scores = [
        *_likelihoods(family, belief, slots),
        *_answers(family, belief, slots, max_new_tokens),
    ]
    by_task: dict[str, Score] = {}
    for task, one in scores:
        by_task[task] = by_task.get(task, Score()) + one
    return by_task


def _likelihoods(
    family: LanguageFamily, belief: Belief, slots: Sequence[int]
) -> Iterable[tuple[str, Score]]:
    log_lik, lengths = family.log_lik(family.data.test, slots)
    predictive = filtered(log_lik, lengths.tolist(), belief.predict[slots], belief.share)
    for example, part in zip(
        family.data.test, torch.split(predictive, lengths.tolist()), strict=True
    ):
        yield example.task, Score(nll=-float(part.sum()), tokens=len(part), sequences=1)


def _answers(
    family: LanguageFamily, belief: Belief, slots: Sequence[int], max_new_tokens: int
) -> Iterable[tuple[str, Score]]:
    examples = family.data.answered
    texts = answer(family, examples, belief, slots, max_new_tokens)
    for example, text in zip(examples, texts, strict=True):
        found = score(text, example.instance.outputs)
        yield (
            example.task,
            Score(rouge_l=found.rouge_l, exact_match=found.exact_match, examples=1),
        )


def answer(
    family: LanguageFamily,
    examples: Sequence[Example],
    belief: Belief,
    slots: Sequence[int],
    max_new_tokens: int,
) -> list[str]:
    """Return the mixture's greedy answers to the examples' prompts."""
    tokens = generate(
        family.experts,
        [example.ids[: example.prompt] for example in examples],
        slots,
        belief.predict[slots],
        belief.share,
        max_new_tokens=max_new_tokens,
        row_cap=family.row_cap,
    )
    return [spelled(family.experts.backbone.tokenizer, ids) for ids in tokens]
