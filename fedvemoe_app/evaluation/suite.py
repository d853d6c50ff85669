"""A silo's test: perplexity of the proper mixture, and answers scored as Super-NI scores them.

Where a silo has an expert of its own (``Belief.private``), it is one more of the mixture; it lies
in the last resident slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

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
    slots, _ = predicting(family, belief)
    likelihoods = family.log_lik(family.data.test, slots)
    return _by_task(family, belief, *likelihoods, max_new_tokens)


def evaluate_with_own(
    family: LanguageFamily, belief: Belief, *, max_new_tokens: int
) -> tuple[dict[str, Score], Score]:
    """Return the same, and the score of the likelihood under the silo's own expert alone.

    Both come from one pass over the test examples.
    """
    slots, _ = predicting(family, belief)
    asked = slots if family.own_slot in slots else [*slots, family.own_slot]
    log_lik, lengths = family.log_lik(family.data.test, asked)
    own = log_lik[:, -1]
    alone = Score(nll=-float(own.sum()), tokens=len(own), sequences=len(lengths))
    return _by_task(family, belief, log_lik[:, : len(slots)], lengths, max_new_tokens), alone


def _by_task(
    family: LanguageFamily, belief: Belief, log_lik: Tensor, lengths: Tensor, max_new_tokens: int
) -> dict[str, Score]:
    slots, weights = predicting(family, belief)
    scores = [
        *_likelihoods(family, filtered(log_lik, lengths.tolist(), weights, belief.share), lengths),
        *_answers(family, slots, weights, belief.share, max_new_tokens),
    ]
    by_task: dict[str, Score] = {}
    for task, one in scores:
        by_task[task] = by_task.get(task, Score()) + one
    return by_task


def predicting(family: LanguageFamily, belief: Belief) -> tuple[list[int], Tensor]:
    """Return the m resident slots that predict, and their weights [m], which sum to one."""
    slots = torch.nonzero(belief.predict).flatten().tolist()
    weights = belief.predict[slots]
    if belief.private > 0:
        slots = [*slots, family.own_slot]
        weights = torch.cat([weights, weights.new_tensor([belief.private])])
    return slots, weights


def _likelihoods(
    family: LanguageFamily, predictive: Tensor, lengths: Tensor
) -> Iterable[tuple[str, Score]]:
    parts = torch.split(predictive, lengths.tolist())
    for example, part in zip(family.data.test, parts, strict=True):
        yield example.task, Score(nll=-float(part.sum()), tokens=len(part), sequences=1)


def _answers(
    family: LanguageFamily,
    slots: Sequence[int],
    weights: Tensor,
    share: float,
    max_new_tokens: int,
) -> Iterable[tuple[str, Score]]:
    examples = family.data.answered
    texts = answer(family, examples, slots, weights, share, max_new_tokens)
    for example, text in zip(examples, texts, strict=True):
        found = score(text, example.instance.outputs)
        yield (
            example.task,
            Score(rouge_l=found.rouge_l, exact_match=found.exact_match, examples=1),
        )


def answer(
    family: LanguageFamily,
    examples: Sequence[Example],
    slots: Sequence[int],
    weights: Tensor,
    share: float,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answers to the examples' prompts of a mixture with ``weights`` [m]."""
    tokens = generate(
        family.experts,
        [example.ids[: example.prompt] for example in examples],
        slots,
        weights,
        share,
        max_new_tokens=max_new_tokens,
        row_cap=family.row_cap,
    )
    return [spelled(family.experts.backbone.tokenizer, ids) for ids in tokens]
