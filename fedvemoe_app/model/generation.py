"""Greedy answers of a silo's mixture, with a KV cache per expert.

The predictive distribution never looks at the token it predicts: p(v) = sum_k a_k p_k(v),
a_1 = r; after a token y, a <- (1-eps) * posterior + eps * r, posterior_k ~ a_k p_k(y)
(fixed share). transformers' own ``generate`` runs on m*P expert-major rows; a logits
processor writes the mixture into all m rows of a prompt, so they emit the same token.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fedvemoe_app.em.mixture import advance
from fedvemoe_app.model.experts import Experts

ROW_CAP = 16_384


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
        self._now = self._advanced(input_ids.view(experts, log_p.shape[1], -1)[0, :, -1])
        self._last = log_p
        share = self._now.log().T.to(log_p.dtype)[:, :, None]
        return torch.logsumexp(share + log_p, dim=0).repeat(experts, 1)

    def _advanced(self, tokens: Tensor) -> Tensor:
        """Return a_t [P, m] after the last ``tokens`` [P]; the silo's weights before the first."""
        if self._now is None or self._last is None:
            return self.weights.expand(len(tokens), -1)
        seen = self._last.gather(2, tokens.expand(self._last.shape[:2])[:, :, None]).squeeze(2)
        return advance(self._now, seen.T.double(), self.weights, self.eps)


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
) -> list[list[int]]:
    """Answer each prompt greedily; return the new tokens without EOS and padding.

    Parameters
    ----------
    weights
        [m], sums to 1: the silo's responsibilities over ``slots``.
    row_cap
        Largest number of prompt tokens x experts that are decoded together.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    answers: dict[int, list[int]] = {}
    while order:
        size = max(1, row_cap // (len(prompts[order[0]]) * len(slots)))
        rows, order = order[:size], order[size:]
        batch = [prompts[row] for row in rows]
        mixture = FixedShareMixture(weights.to(experts.backbone.device), eps)
        answers.update(
            zip(rows, _decode(experts, batch, slots, mixture, max_new_tokens), strict=True)
        )
    return [answers[row] for row in range(len(prompts))]


def _decode(
    experts: Experts,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    mixture: FixedShareMixture,
    max_new_tokens: int,
) -> list[list[int]]:
    backbone = experts.backbone
    input_ids, mask = _pad_left(prompts, backbone.tokenizer.pad_token_id)
    settings = copy(backbone.model.generation_config)
    settings.max_new_tokens = max_new_tokens
    with experts.active(slots) as model:
        output = model.generate(
            input_ids=input_ids.repeat(len(slots), 1).to(backbone.device),
            attention_mask=mask.repeat(len(slots), 1).to(backbone.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([mixture]),
        )
    new = output[: len(prompts), input_ids.shape[1] :].tolist()
    return [_until_stop(tokens, set(settings.eos_token_id)) for tokens in new]


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
