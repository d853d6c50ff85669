"""Packing on a base: whether its layers keep the sequences of a row apart, and when that pays.

Positions that begin anew within a row, without an attention mask, tell transformers that another
sequence begins: its masks are then block-diagonal. Not every architecture goes by them (a
recurrent layer, say, or flash attention over several rows), so each base is asked once.
"""

from __future__ import annotations

import logging
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedvemoe_app.data.packing import Packing
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.footprint import Shape

Wish = Literal["auto", "off"]

SLOWER = 2
"""Times that a product inside attention takes of one in a linear layer, softmax and masks
included: rather too much, for then packing is only chosen where it pays for sure."""

_faults: WeakKeyDictionary[Backbone, str] = WeakKeyDictionary()


def packing_on(backbone: Backbone, wish: Wish, longest: int, budget: int) -> Packing | None:
    """Return how sequences share rows on a base; None: not at all.

    ``longest`` and ``budget`` are those of ``Packing``. Where the base cannot, the log says why,
    once for each base.
    """
    if wish == "off" or fault(backbone):
        return None
    return Packing(attention_cost(Shape.of(backbone.model)), longest, budget)


def attention_cost(shape: Shape) -> float:
    """Return what attending to one token costs, where 1 are the linear layers for a token.

    Two products of the hidden size in each layer: query with key, weight with value.
    """
    return SLOWER * 2 * shape.hidden * shape.layers / shape.linear


def fault(backbone: Backbone) -> str:
    """Return why the sequences of a row are not kept apart by this base; "" where they are."""
    if backbone not in _faults:
        found = _faults[backbone] = _tried(backbone)
        if found:
            logging.getLogger("flwr").info("sequences are padded, not packed: %s", found)
    return _faults[backbone]


def _tried(backbone: Backbone) -> str:
    """Compare one forward pass over packed rows with one over single sequences."""
    kind, model = type(backbone.model).__name__, backbone.model.base_model
    tokens = torch.arange(1, 13, device=backbone.device) % backbone.head.vocabulary
    rows = tokens.view(2, 6)
    positions = torch.tensor([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]], device=backbone.device)
    try:
        together = _hidden(model, input_ids=rows, position_ids=positions)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{kind} takes no positions ({error})"
    pieces = [(0, slice(0, 2)), (0, slice(2, 6)), (1, slice(0, 4)), (1, slice(4, 6))]
    alone = [_hidden(model, input_ids=rows[row : row + 1, part])[0] for row, part in pieces]
    off = (together.flatten(0, 1) - torch.cat(alone)).norm() / torch.cat(alone).norm()
    # The root of the rounding unit: kernels differ by less, a sequence that is seen by more.
    if float(off) < torch.finfo(model.dtype).eps ** 0.5:
        return ""
    return f"{kind} lets a sequence see the one before it in the same row"


@torch.no_grad()
def _hidden(model: Any, **given: Tensor) -> Tensor:
    """Return last hidden states [B, T, H] in float32."""
    hidden: Tensor = model(**given, use_cache=False).last_hidden_state
    return hidden.float()
