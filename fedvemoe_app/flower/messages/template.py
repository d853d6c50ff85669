"""What the sums of a phase look like, told beforehand: names, shapes, and sizes for fixed point.

The server knows them from the bank and the settings. They travel with every message, so that all
silos send the same vector whatever they did: what a silo has nothing for is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedvemoe_app.em.shapes import Shapes, update_shapes
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update, spread
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import get_facts, is_shape, put_facts
from fedvemoe_app.flower.shelf import State

WEIGHT_BOUND = {"equal": 1.0, "sqrt": 1e3, "tokens": 1e6}
"""What a silo may weigh before anything was summed: a million training tokens."""

MOST_SUMMED = 2**32
"""Values of one sum at most: four times a bank of twelve experts on a base of 70 billion."""

LARGEST_RMS = 1e30
LEAST_RMS = 1e-20
"""Below it a step would vanish; a learning rate of 0 moves nothing and is still a run."""


@dataclass(frozen=True, slots=True)
class Template:
    """Shapes of a phase's sums; ``rms`` of one silo's values, per tensor and expert [K].

    Arrays with an ``rms`` are large tensors, summed in words whose step follows from it; all
    others are statistics, summed at one fine step. A ``step`` is that of all large tensors,
    whatever their sizes: what is clipped and noised has a grid of its own.
    """

    shapes: Shapes
    rms: dict[str, list[float]] = field(default_factory=dict)
    step: float = 0.0

    def put(self, content: RecordDict) -> None:
        """Add the template to a message."""
        step = {"step": self.step} if self.step else {}
        put_facts(content, "template", {"shapes": self.shapes, "rms": self.rms, **step})

    @classmethod
    def get(cls, content: RecordDict) -> Self:
        """Return the template of a message; RunError where there is none."""
        facts = get_facts(content, "template")
        if not _is_sound(facts):
            raise RunError("record template of a message is damaged, or asks for too much")
        shapes = {name: tuple(shape) for name, shape in facts["shapes"].items()}
        return cls(shapes, facts["rms"], facts.get("step", 0.0))

    @classmethod
    def told(cls, content: RecordDict) -> Shapes | None:
        """Return the shapes that a message tells its receiver, if it does."""
        return cls.get(content).shapes if "template" in content else None

    def conform(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``sums`` with zeros for what is missing; RunError for what does not belong."""
        for name, tensor in sums.items():
            if tuple(tensor.shape) != self.shapes.get(name):
                raise RunError(f"{name} of shape {tuple(tensor.shape)} is not in the template")
        return {
            name: sums[name] if name in sums else torch.zeros(shape, dtype=self._dtype(name))
            for name, shape in self.shapes.items()
        }

    def _dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name in self.rms else torch.float64


def _is_sound(facts: Any) -> bool:
    """Whether a template asks for possible sums: a silo makes zeros for what it has nothing for."""
    match facts:
        case {"shapes": dict(shapes), "rms": dict(rms), **rest} if rest.keys() <= {"step"}:
            sizes = [[rest.get("step", 0.0)], *rms.values()]
            return (
                all(map(is_shape, shapes.values()))
                and sum(map(math.prod, shapes.values())) <= MOST_SUMMED
                and rms.keys() <= shapes.keys()
                and all(map(_are_sizes, sizes))
            )
    return False


def _are_sizes(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(size, int | float) and 0 <= size < LARGEST_RMS for size in found
    )


@dataclass(slots=True)
class Scales:
    """How large one silo's changes were in the last round that trained a tensor.

    ``first`` serves before there was one: generous, for a word of 32 bits has room to spare.
    """

    first: float
    known: dict[str, Tensor] = field(default_factory=dict)

    def learn(self, total: Update, bank: Bank) -> None:
        """Take the sizes from a round's sums over the living experts of ``bank``."""
        silos, slots = float(total.silos), torch.tensor(bank.slots)
        for name, squares in total.squares.items():
            size = total.delta[name][0].numel()
            # With c contributors of equal weight: c / sqrt(silos) times the size of one's change.
            found = (squares * total.weight / size / silos).sqrt()
            self.known[name] = spread(found, slots, len(bank.alive))

    def template(self, bank: Bank, trained: list[str], parent: int | None = None) -> Template:
        """Return the template of a training round of the living experts of ``bank``.

        ``parent`` is the slot whose seeds are summed as well. An expert of which nothing is known,
        such as a newborn, is taken to change as much as the one that changes most.
        """
        shapes = {name: (len(bank.slots), *bank.experts[name].shape[1:]) for name in trained}
        rms: dict[str, Any] = {}
        for name in trained:
            known = self.known.get(name, torch.zeros(len(bank.alive)))
            most = float(known.max())
            found = torch.where(known > 0, known, most if most > 0 else self.first)
            found = found.clamp(min=LEAST_RMS)
            rms[f"delta/{name}"] = found[bank.slots].tolist()
            if parent is not None:
                rms[f"seed/{name}"] = [float(found[parent])]
        return Template(update_shapes(len(bank.slots), shapes), rms)

    def state(self) -> State:
        """Return the sizes that are known."""
        return State(self.known, {})

    def restore(self, state: State) -> None:
        """Go on from known sizes."""
        self.known = dict(state.arrays)


def first_scale(silo_weight: str, learning_rate: float, steps: int) -> float:
    """Return a size that one silo's weighted change does not exceed by much in a first round.

    An optimiser of AdamW's kind moves a parameter by about the learning rate in a step.
    """
    return 0.3 * WEIGHT_BOUND[silo_weight] * learning_rate * steps
