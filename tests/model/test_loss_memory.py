"""The loss never holds the logits of all experts, tokens and words at once, forward or backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedvemoe_app.model import head as heads
from fedvemoe_app.model.head import Head
from fedvemoe_app.model.objective import _backward, _by_token

HIDDEN, TOKENS, ENTRIES = 8, 300, 10_000


class Largest(TorchDispatchMode):
    """Notes the number of entries of the largest tensor that any operation makes."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.found = max(self.found, one.numel())
        return made


def largest(vocabulary: int, experts: int) -> int:
    torch.manual_seed(0)
    linear = nn.Linear(HIDDEN, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(experts, TOKENS, HIDDEN, requires_grad=True)
    targets = torch.randint(vocabulary, (TOKENS,))
    weights = torch.full((experts,), 1 / experts, dtype=torch.float64)
    with Largest() as watched:
        _backward(Head(linear, 1.0, None, vocabulary), hidden * 1.0, targets, _by_token(weights, 1))
    assert hidden.grad is not None
    assert bool((hidden.grad != 0).any(dim=-1).all())  # every token of every expert was reached
    return watched.found


@pytest.mark.parametrize(("vocabulary", "experts"), [(200, 1), (2_000, 1), (200, 4), (2_000, 4)])
def test_no_tensor_of_the_loss_grows_with_words_times_experts(
    vocabulary: int, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "ENTRIES_CPU", ENTRIES)
    weight, hidden = HIDDEN * vocabulary, experts * TOKENS * HIDDEN
    assert largest(vocabulary, experts) <= max(ENTRIES, weight, hidden)
