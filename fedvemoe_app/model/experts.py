"""The bank's experts: K LoRA adapters side by side on one frozen base.

A slot is a PEFT adapter called ``slot_00``, ``slot_01``, ... Tensors travel stacked along a
first expert axis, under names ``<module path>.A`` [K, r, in] and ``<module path>.B``
[K, out, r]. Inside ``active(slots)`` the base's forward pass takes expert-major rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedvemoe_app.data.batches import Batch
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.adapter_files import read_adapter, write_adapter
from fedvemoe_app.model.attachment import (
    ALL_LINEAR,
    adapter_name,
    attach,
    home,
    lora_layers,
    zero_master,
)
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.head import is_target
from fedvemoe_app.model.stacked_layers import Selection
from fedvemoe_app.model.trunk import Trunk, decoder_layers
from fedvemoe_app.seeds import stream

Factor = Literal["A", "B", "both"]
Layers = Literal["all", "upper"]


class Experts:
    """``slots`` LoRA experts attached to a base; all start at zero (see ``initial``).

    Parameters
    ----------
    target_modules
        "all-linear" (all linear layers but the output head), a list of module names, or a
        regular expression over module paths.
    layers
        "upper": only the upper half of the layers has experts; probes and training then take
        the lower half once for all of them (``model.trunk``).

    Raises
    ------
    SettingError
        If the target modules do not exist or are not linear layers below the head.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        slots: int,
        rank: int,
        alpha: float,
        target_modules: str | Sequence[str] = ALL_LINEAR,
        layers: Layers = "all",
    ) -> None:
        self.backbone = backbone
        self.slots = slots
        self.rank = rank
        self.alpha = alpha
        self._selection = Selection()
        first = len(decoder_layers(backbone.model)) // 2 if layers == "upper" else 0
        self._peft = attach(backbone.model, slots, rank, alpha, target_modules, first)
        self.trunk = Trunk(backbone.model, first, self._selection) if first else None
        self._parameters = self._table()

    def _table(self) -> dict[str, list[nn.Parameter]]:
        """Make zero float32 masters and list them: tensor name -> one parameter per slot."""
        table: dict[str, list[nn.Parameter]] = {}
        for path, layer in lora_layers(self.backbone.model).items():
            layer.selection = self._selection
            device = home(layer.get_base_layer().weight.device)
            for factor, modules in (("A", layer.lora_A), ("B", layer.lora_B)):
                table[f"{path}.{factor}"] = [
                    zero_master(modules[adapter_name(slot)], device) for slot in range(self.slots)
                ]
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, A before B, in the order of the base's layers."""
        return tuple(self._parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes with the expert axis first: A [K, r, in], B [K, out, r]."""
        return {name: (self.slots, *stack[0].shape) for name, stack in self._parameters.items()}

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return LoRA's start: one kaiming-uniform A for all slots, B zero; equal everywhere.

        A is uniform in +-1/sqrt(in), which is PEFT's default. Each module has a stream of
        its own, so the draw does not depend on the machine or on the other modules.
        """
        start = {}
        for name, (slots, *shape) in self.shapes.items():
            start[name] = torch.zeros(slots, *shape)
            if name.endswith(".A"):
                bound = 1 / np.sqrt(shape[1])
                drawn = stream(seed, "lora", name).uniform(-bound, bound, shape)
                start[name][:] = torch.from_numpy(drawn)
        return start

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], slots: Sequence[int] | None = None) -> None:
        """Copy stacked tensors [len(slots), ...] into the slots (all by default).

        Names that are absent keep their values, so one factor may be loaded alone.

        Raises
        ------
        RunError
            If a name is unknown or a shape (rank, expert axis) differs.
        """
        slots = range(self.slots) if slots is None else slots
        for name, stack in tensors.items():
            self._check_tensor(name, stack, len(slots))
            for slot, tensor in zip(slots, stack, strict=True):
                self._parameters[name][slot].copy_(tensor)

    def _check_tensor(self, name: str, stack: Tensor, experts: int) -> None:
        if name not in self._parameters:
            raise RunError(f"{name} is no tensor of these experts: other base or target modules?")
        expected = (experts, *self._parameters[name][0].shape)
        if tuple(stack.shape) != expected:
            raise RunError(
                f"{name} has shape {tuple(stack.shape)}, expected {expected}: experts of one "
                f"bank share one LoRA rank, here {self.rank}"
            )

    @torch.no_grad()
    def state(self, slots: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return copies of the slots' tensors, stacked, float32 on the CPU."""
        slots = range(self.slots) if slots is None else slots
        return {
            name: torch.stack([stack[slot].detach() for slot in slots]).cpu()
            for name, stack in self._parameters.items()
        }

    @contextmanager
    def active(self, slots: Sequence[int], *, unchanging: bool = False) -> Iterator[Any]:
        """Let the base take rows [m*B, T] and apply slot ``slots[j]`` to rows j*B..(j+1)*B.

        A backward pass with gradient checkpointing runs layers again: keep it inside. Over many
        passes in which no expert changes, ``unchanging`` stacks the factors only once.
        """
        self._check_slots(slots)
        adapters = tuple(adapter_name(slot) for slot in slots)
        with self._selection.replaced(Selection(adapters, {} if unchanging else None)):
            yield self.backbone.model

    @contextmanager
    def hidden(
        self, slots: Sequence[int], batch: Batch, below: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Give the last hidden states [m, N, H] from which the N target tokens are predicted.

        A backward pass belongs inside. Every expert reads all rows [B, T] of ``batch``. The base
        is causal, so padding to the right needs no mask; where rows hold several examples,
        positions that begin anew tell it so (``model.packing``). ``below`` are the hidden states
        [B, T, H] under the first layer with experts, where they are known.
        """
        self._check_slots(slots)
        m, device = len(slots), self.backbone.device
        selection = Selection(tuple(adapter_name(slot) for slot in slots))
        if self.trunk:
            selection.spread, selection.below = m, below
        given = {"input_ids": batch.input_ids}
        if batch.packed:
            given["position_ids"] = batch.positions
        times = 1 if self.trunk else m  # expert-major
        rows = {name: one.to(device).repeat(times, 1) for name, one in given.items()}
        with self._selection.replaced(selection):
            output = self.backbone.model.base_model(**rows, use_cache=False)
            hidden: Tensor = output.last_hidden_state.view(m, *batch.input_ids.shape, -1)
            yield hidden[:, :, :-1][:, is_target(batch.labels).to(device)]

    @property
    def below(self) -> Tensor | None:
        """The hidden states [B, T, H] under the first expert in the pass that runs, if shared."""
        return self._selection.seen

    def _check_slots(self, slots: Sequence[int]) -> None:
        if not slots or not all(0 <= slot < self.slots for slot in slots):
            raise ValueError(f"slots {list(slots)} are not among the {self.slots} slots")

    def train_factor(self, factor: Factor, slots: Sequence[int]) -> dict[str, list[nn.Parameter]]:
        """Let gradients reach ``factor`` of ``slots`` and nothing else; return those parameters.

        The lists hold one parameter per slot, in the order of ``slots``.
        """
        self._check_slots(slots)
        self.freeze()
        endings = (".A", ".B") if factor == "both" else (f".{factor}",)
        chosen = {
            name: [stack[slot] for slot in slots]
            for name, stack in self._parameters.items()
            if name.endswith(endings)
        }
        for stack in chosen.values():
            for parameter in stack:
                parameter.requires_grad_(True)
        return chosen

    def freeze(self) -> None:
        """Stop gradients everywhere and drop those that are left."""
        for stack in self._parameters.values():
            for parameter in stack:
                parameter.requires_grad_(False)
                parameter.grad = None

    def save(self, slot: int, folder: Path | str) -> None:
        """Write one slot as a standard PEFT adapter folder."""
        config: Any = copy(self._peft.peft_config[adapter_name(slot)])
        config.base_model_name_or_path = self.backbone.name
        config.inference_mode = True
        if isinstance(config.target_modules, set):  # a set has no order; the file should
            config.target_modules = sorted(config.target_modules)
        tensors = {name: stack[slot].detach().cpu() for name, stack in self._parameters.items()}
        write_adapter(folder, config, tensors)

    def load_folder(self, slot: int, folder: Path | str) -> None:
        """Fill one slot from a PEFT adapter folder.

        Raises
        ------
        RunError
            If the folder holds another rank, alpha or set of modules.
        """
        config, tensors = read_adapter(folder)
        if (config.r, config.lora_alpha) != (self.rank, self.alpha):
            raise RunError(
                f"{folder}: rank {config.r} and alpha {config.lora_alpha}, but this bank has "
                f"rank {self.rank} and alpha {self.alpha}"
            )
        missing = self._parameters.keys() - tensors.keys()
        if missing:
            raise RunError(f"{folder}: {min(missing)} is missing (other target modules?)")
        self.load({name: tensor[None] for name, tensor in tensors.items()}, [slot])

    def close(self) -> None:
        """Take the adapters off; the base is as it was and takes other experts."""
        if self.trunk:
            self.trunk.close()
        self._peft.unload()
        self._parameters = {}
