"""From hidden states to token log-probabilities, in chunks, so that full logits never exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedvemoe_app.data.batches import IGNORED, Batch
from fedvemoe_app.errors import BaseModelError

# Logits held at once, in float32 entries: 64 MiB on a CPU, 512 MiB on an accelerator.
ENTRIES_CPU = 2**24
ENTRIES_ACCELERATOR = 2**27


@dataclass(frozen=True, eq=False)
class Head:
    """A causal language model's output layer: scale * linear, soft-capped where the base is."""

    linear: nn.Module
    scale: float
    softcap: float | None
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Head:
        """Read the head off a transformers model."""
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1)
        softcap = getattr(config, "final_logit_softcapping", None)
        linear = model.get_output_embeddings()
        return cls(linear, scale, softcap, linear.weight.shape[0])

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of ``hidden`` [..., H]."""
        logits: Tensor = self.linear(hidden).float() * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def log_lik(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return log p_k(y_t) [m, N], float32 nats, of ``hidden`` [m, N, H], ``targets`` [N]."""
        logits = self(hidden.flatten(0, -2))  # one product: in three dimensions it may be m
        wanted = targets.expand(hidden.shape[:-1])
        losses = nn.functional.cross_entropy(logits, wanted.flatten(), reduction="none")
        return -losses.view(wanted.shape)

    @torch.no_grad()
    def token_log_lik(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return log p_k(y_t) [N, m], float64 nats, of any number N of tokens."""
        parts = [self.log_lik(hidden[:, chunk], targets[chunk]) for chunk in self.chunks(hidden)]
        empty = torch.empty(len(hidden), 0, device=hidden.device)
        return torch.cat([empty, *parts], dim=1).T.double()

    def chunks(self, hidden: Tensor) -> Iterator[slice]:
        """Cut the tokens of ``hidden`` [m, N, H] so that a chunk's logits [m, n, V] fit."""
        experts, tokens, _ = hidden.shape
        entries = ENTRIES_CPU if hidden.device.type == "cpu" else ENTRIES_ACCELERATOR
        size = max(1, entries // (experts * self.vocabulary))
        for start in range(0, tokens, size):
            yield slice(start, start + size)


def is_target(labels: Tensor) -> Tensor:
    """Return [B, T-1]: whether the token after this position is a target."""
    return labels[:, 1:] != IGNORED


def target_tokens(labels: Tensor) -> Tensor:
    """Return the N target tokens of ``labels`` [B, T], row by row."""
    return labels[:, 1:][is_target(labels)]


def target_owners(batch: Batch) -> Tensor:
    """Return the number [N] of the example that each target token of a batch belongs to."""
    return batch.owners[:, 1:][is_target(batch.labels)]


@torch.no_grad()
def check_head(model: Any, name: str) -> None:
    """Refuse a base whose logits are not made the way ``Head`` makes them.

    Raises
    ------
    BaseModelError
        If the two differ on a few tokens.
    """
    rows = torch.arange(1, 5, device=model.get_input_embeddings().weight.device)[None]
    hidden = model.base_model(input_ids=rows, use_cache=False).last_hidden_state
    theirs = model(input_ids=rows, use_cache=False).logits.float()
    # A hundredth of the largest logit: what bfloat16 loses in a soft cap.
    if (Head.of(model)(hidden) - theirs).abs().max() > 0.01 * theirs.abs().max():
        kind = type(model).__name__
        raise BaseModelError(f"{name}: {kind} changes its logits in a way that is not supported")
