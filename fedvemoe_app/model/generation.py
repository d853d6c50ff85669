"""Greedy answers of a silo's mixture, with a KV cache per expert.

The predictive distribution never looks at the token it predicts: p(v) = sum_k a_k p_k(v),
a_1 = r; after a token y, a <- (1-eps) * posterior + eps * r, posterior_k ~ a_k p_k(y)
(fixed share). transformers' own ``generate`` runs on m*P expert-major rows; a logits
processor writes the mixture into all m rows of a prompt, so they emit the same token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fedvemoe_app.em.mixture import advance
from fedvemoe_app.model.advice import advice
from fedvemoe_app.model.experts import Experts

ROW_CAP = 16_384


class Emitted(NamedTuple):
    """A token of the answer to prompt ``row``; ``posterior`` [m] says which expert carried it."""

    row: int
    token: int
    posterior: Tensor


OnToken = Callable[[Emitted], object]


class FixedShareMixture(LogitsProcessor):
    """The mixture over experts of each sequence, updated with every token it emits.

    Parameters
    ----------
    weights
        [m], sums to 1: r.
    eps
        Share of the weight that returns to ``weights`` after every token.
    """

    def __init__(self, weights: Tensor, eps: float) -> None:
        self.weights = weights.double()  # [m]
        self.eps = eps
        self._now: Tensor | None = None  # [P, m], a_t
        self._last: Tensor | None = None  # [m, P, V]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the mixture's log-probabilities [m*P, V] for logits ``scores`` [m*P, V]."""
        experts = len(self.weights)
        log_p = scores.float().log_softmax(dim=-1).view(experts, -1, scores.shape[-1])
        tokens = input_ids.view(experts, log_p.shape[1], -1)[0, :, -1]
        self._now = self._after(tokens, self.eps)
        self._last = log_p
        share = self._now.log().T.to(log_p.dtype)[:, :, None]
        # Pair by pair: over a large vocabulary several times faster than one logsumexp of all.
        mixed = reduce(torch.logaddexp, (share + log_p).unbind())
        return mixed.repeat(experts, 1)

    def posterior(self, tokens: Tensor) -> Tensor:
        """Return a_k p_k(y) / sum_j a_j p_j(y) [P, m] of the ``tokens`` [P] just predicted."""
        return self._after(tokens, 0.0)

    def _after(self, tokens: Tensor, eps: float) -> Tensor:
        """Return a_t [P, m] after the last ``tokens`` [P]; the silo's weights before the first."""
        if self._now is None or self._last is None:
            return self.weights.expand(len(tokens), -1)
        seen = self._last.gather(2, tokens.expand(self._last.shape[:2])[:, :, None]).squeeze(2)
        return advance(self._now, seen.T.double(), self.weights, eps)


class _Telling(LogitsProcessor):
    """Tells of each token as the mixture chooses it, until its answer has ended.

    A streamer of transformers may lag a step behind the logits. The choice is greedy, so it is
    known here, together with the likelihoods that led to it.
    """

    def __init__(
        self, mixture: FixedShareMixture, rows: Sequence[int], stop: set[int], on_token: OnToken
    ) -> None:
        self._mixture = mixture
        self._going = dict(enumerate(rows))  # position in the batch -> prompt
        self._stop = stop
        self._tell = on_token
        self._batch = len(rows)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mixed = self._mixture(input_ids, scores)
        tokens = mixed.argmax(dim=-1)[: self._batch]
        posterior = self._mixture.posterior(tokens).cpu()
        for p, token in enumerate(tokens.tolist()):
            if token in self._stop:
                self._going.pop(p, None)
            elif p in self._going:
                self._tell(Emitted(self._going[p], token, posterior[p]))
        return mixed


@torch.no_grad()
def generate(
    experts: Experts,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    weights: Tensor,
    eps: float,
    *,
    max_new_tokens: int,
    row_cap: int = ROW_CAP,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """Answer each prompt greedily; return the new tokens without EOS and padding.

    Parameters
    ----------
    weights
        [m], sums to 1: the silo's responsibilities over ``slots``.
    row_cap
        Largest number of prompt tokens x experts that are decoded together.
    on_token
        Is told of every token of every answer as it is chosen.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    answers: dict[int, list[int]] = {}
    told: Counter[int] = Counter()
    while order:
        least = len(prompts[order[0]]) * len(slots)

        def first(cap: int, order: list[int] = order, least: int = least) -> dict[int, list[int]]:
            """Answer as many of the prompts as fit, the longest first."""
            rows = order[: max(1, cap // least)]
            mixture = FixedShareMixture(weights.to(experts.backbone.device), eps)
            tell = _once(on_token, told) if on_token else None
            chosen = _choosing(mixture, rows, _stop_tokens(experts), tell)
            batch = [prompts[row] for row in rows]
            decoded = _decode(experts, batch, slots, chosen, max_new_tokens)
            return dict(zip(rows, decoded, strict=True))

        answers |= experts.backbone.room.redo(
            first,
            row_cap=row_cap,
            rows=least * len(order),
            least=least,
            advice=partial(advice, experts, least, 0),
        )
        order = [row for row in order if row not in answers]
    return [answers[row] for row in range(len(prompts))]


def _once(on_token: OnToken, told: Counter[int]) -> OnToken:
    """Tell of each token once, though a batch without enough memory is decoded again."""
    seen: Counter[int] = Counter()

    def tell(emitted: Emitted) -> None:
        seen[emitted.row] += 1
        if seen[emitted.row] > told[emitted.row]:
            told[emitted.row] += 1
            on_token(emitted)

    return tell


def _choosing(
    mixture: FixedShareMixture, rows: Sequence[int], stop: set[int], on_token: OnToken | None
) -> LogitsProcessorList:
    """Return what turns logits into the mixture's; one expert alone is its own mixture."""
    if on_token:
        return LogitsProcessorList([_Telling(mixture, rows, stop, on_token)])
    return LogitsProcessorList([mixture] if len(mixture.weights) > 1 else [])


def _decode(
    experts: Experts,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    chosen: LogitsProcessorList,
    max_new_tokens: int,
) -> list[list[int]]:
    backbone = experts.backbone
    input_ids, mask = _pad_left(prompts, backbone.tokenizer.pad_token_id)
    settings = copy(backbone.model.generation_config)
    settings.max_new_tokens = max_new_tokens
    with experts.active(slots, unchanging=True) as model:
        output = model.generate(
            input_ids=input_ids.repeat(len(slots), 1).to(backbone.device),
            attention_mask=mask.repeat(len(slots), 1).to(backbone.device),
            generation_config=settings,
            logits_processor=chosen,
        )
    new = output[: len(prompts), input_ids.shape[1] :].tolist()
    return [_until_stop(tokens, _stop_tokens(experts)) for tokens in new]


def _stop_tokens(experts: Experts) -> set[int]:
    return set(experts.backbone.model.generation_config.eos_token_id)


def _pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return tokens and attention mask, both [P, T] int64: prompts end where answers begin."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for p, prompt in enumerate(prompts):
        input_ids[p, width - len(prompt) :] = torch.tensor(prompt)
        mask[p, width - len(prompt) :] = 1
    return input_ids, mask


def _until_stop(tokens: list[int], stop: set[int]) -> list[int]:
    end = next((t for t, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]
