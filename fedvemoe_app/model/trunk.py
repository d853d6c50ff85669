"""The layers below the first expert: the same for all experts, so they see each sequence once.

Where only the upper half of the layers has experts, a pass takes each sequence through the lower
half once, and its hidden states are then repeated for every expert. As the base is frozen, the
states of a fixed text never change: those of the probe are kept from round to round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.errors import SettingError
from fedvemoe_app.model.stacked_layers import Selection

MOST_KEPT = 2**29
"""Bytes of hidden states that one process keeps."""


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers of a base, from the first; SettingError where there is no list."""
    number = model.config.get_text_config().num_hidden_layers
    for part in model.base_model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == number:
            return list(part)
    raise SettingError(
        f"adapter-layers = upper: the layers of {type(model).__name__} are not one list: take all"
    )


class Kept:
    """Hidden states by text, up to ``MOST_KEPT`` bytes; the oldest go first."""

    def __init__(self) -> None:
        self._states: dict[bytes, Tensor] = {}

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()

    def get(self, batch: Batch) -> Tensor | None:
        """Return the states [B, T, H] of a batch's text, or None."""
        return self._states.get(_digest(batch))

    def put(self, batch: Batch, states: Tensor) -> None:
        """Keep the states of a text, and let the oldest go where there are too many."""
        self._states[_digest(batch)] = states
        while sum(one.nbytes for one in self._states.values()) > MOST_KEPT:
            del self._states[next(iter(self._states))]


class Trunk:
    """Makes a base take its layers below ``first`` once for all selected experts.

    ``selection.spread`` says how many experts share the rows that come in (0: none do).
    ``selection.below`` are their hidden states where these are known, and then the layers below
    are not run; ``selection.seen`` is where a pass leaves them.
    """

    def __init__(self, model: Any, first: int, selection: Selection) -> None:
        layers = decoder_layers(model)
        self._selection = selection
        self._below = layers[:first]
        self.kept = Kept()
        self._handle = layers[first].register_forward_pre_hook(self._spread, with_kwargs=True)
        for layer in self._below:
            layer.forward = partial(self._unless_known, layer.forward)

    def _unless_known(
        self, forward: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if self._selection.below is not None:
            return hidden_states
        return forward(hidden_states, *args, **kwargs)

    def _spread(
        self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Repeat what the layer takes for every expert, rows expert-major."""
        selection = self._selection
        if not selection.spread:
            return None
        if selection.below is not None:
            args = (selection.below, *args[1:])
        selection.seen = args[0].detach()
        repeat = partial(_repeated, rows=args[0].shape[0], times=selection.spread)
        return tuple(map(repeat, args)), {name: repeat(value) for name, value in kwargs.items()}

    def close(self) -> None:
        """Leave the base as it was."""
        self._handle.remove()
        for layer in self._below:
            vars(layer).pop("forward", None)


def _repeated(value: Any, *, rows: int, times: int) -> Any:
    """Repeat a tensor whose first axis are the rows; one without rows is for all of them."""
    if isinstance(value, tuple):
        return tuple(_repeated(one, rows=rows, times=times) for one in value)
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == rows:
        return value.repeat(times, *[1] * (value.dim() - 1))
    return value


def _digest(batch: Batch) -> bytes:
    """Tell texts apart: the same tokens are another text where other examples begin."""
    shape = repr((tuple(batch.input_ids.shape), batch.lengths)).encode()
    tokens = batch.input_ids.contiguous().numpy().tobytes()
    return hashlib.blake2b(shape + tokens, digest_size=16).digest()
