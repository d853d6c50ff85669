"""The probe: what every expert thinks of every target token, log p_k(y_t | y_<t, x)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.model.advice import advice
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.head import target_owners, target_tokens


def token_log_lik(
    experts: Experts,
    batches: Iterable[Batch],
    slots: Sequence[int],
    *,
    row_cap: int,
    keep: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihoods of all target tokens under each slot.

    Parameters
    ----------
    row_cap
        Largest number of token rows (sequences x padded length x experts) of one forward
        pass; a single longer sequence still goes through. Start at 800 on a CPU, at
        16,000 on an accelerator.
    keep
        Whether the same text will come again: where experts share the lower layers, the
        hidden states under the first expert are kept for it.

    Returns
    -------
    log_lik
        [N, m], float64 nats on the CPU, ordered by the examples' rows, then by position.
    lengths
        [examples], int64: target tokens of each example, in the same order.
    """
    by_row: dict[int, Tensor] = {}
    for batch in batches:
        length = batch.input_ids.shape[1]
        log_lik = experts.backbone.room.redo(
            partial(_batch_log_lik, experts, batch, slots, keep=keep),
            row_cap=row_cap,
            rows=batch.input_ids.numel() * len(slots),
            least=length,
            advice=partial(advice, experts, length, 0),
        )
        counts = torch.bincount(target_owners(batch), minlength=len(batch.rows)).tolist()
        by_row.update(zip(batch.rows, torch.split(log_lik, counts), strict=True))
    ordered = [by_row[row] for row in sorted(by_row)]
    lengths = torch.tensor([len(tokens) for tokens in ordered], dtype=torch.long)
    return torch.cat([torch.empty(0, len(slots), dtype=torch.float64), *ordered]), lengths


def _batch_log_lik(
    experts: Experts, batch: Batch, slots: Sequence[int], row_cap: int, *, keep: bool
) -> Tensor:
    """Return [N, m] for one batch, tokens in its own order, in blocks of at most ``row_cap``."""
    sequences, length = batch.input_ids.shape
    fit = max(1, row_cap // length)  # sequences x experts of one forward pass
    group = min(len(slots), max(1, fit // sequences))
    size = max(1, fit // group)
    groups = [slots[start : start + group] for start in range(0, len(slots), group)]
    blocks = [
        _block(experts, batch.part(slice(first, first + size)), groups, keep)
        for first in range(0, sequences, size)
    ]
    return torch.cat(blocks)


@torch.no_grad()
def _block(experts: Experts, batch: Batch, groups: Sequence[Sequence[int]], keep: bool) -> Tensor:
    """Return [N, m], float64 on the CPU: one forward pass for each group of slots.

    What the groups share, the layers below the first expert, is run for the first of them alone.
    """
    backbone, trunk = experts.backbone, experts.trunk
    targets = target_tokens(batch.labels).to(backbone.device)
    below = trunk.kept.get(batch) if trunk and keep else None
    columns = []
    for slots in groups:
        with experts.hidden(slots, batch, below) as hidden:
            below = experts.below
            columns.append(backbone.head.token_log_lik(hidden, targets).cpu())
    if trunk and keep and below is not None:
        trunk.kept.put(batch, below)
    return torch.cat(columns, dim=1)
