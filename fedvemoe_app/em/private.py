"""The private slot: one more expert that never leaves its silo, weighed beside the shared ones.

If sharing does not help a silo, the weight of its own expert says so, and nothing that is summed
looks at it. It was trained on the silo's training examples, so its weight comes from the
held-out part of the probe alone: the examples that top it up would flatter it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedvemoe_app.em.responsibilities import stack, support


def beside(log_lik: Tensor, private: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns [T, K + 1] and prior [K + 1] with the ``private`` column [T] as the last.

    The private expert's share of the prior is that of one expert among K + 1.
    """
    columns = torch.cat([log_lik, private.to(log_lik.dtype).unsqueeze(1)], dim=1)
    share = 1.0 / columns.shape[1]
    return columns, torch.cat([prior * (1.0 - share), prior.new_tensor([share])])


def predictive(log_lik: Tensor, prior: Tensor, *, floor: float, tau: float) -> Tensor:
    """Return predictive weights [K + 1] by stacking, anew over those that reach ``floor``."""
    dense = stack(log_lik, prior, tau=tau)
    kept = torch.where(support(dense, floor=floor, most=len(prior)), prior, 0.0)
    return stack(log_lik, kept / kept.sum(), tau=tau)
