"""Flower's strategies as server rules: their arithmetic on the silos' mean, and nothing else.

A Flower class aggregates the replies of silos. Here it gets one: the weighted mean, formed
from sums (``em.round.train_step``), so that it works under secure sums as well.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from torch import Tensor

from fedvemoe_app.em.round import train_step
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update

LOG = logging.getLogger("flwr")
STEPS, NAMES = "steps", "names"


def flower_classes() -> dict[str, type[Any]]:
    """Return Flower's strategies by name, without the interface that they follow."""
    names = set(flower.__all__) - {"Result", "Strategy"}
    return {name: getattr(flower, name) for name in sorted(names)}


@dataclass(slots=True)
class _Counted:
    """One of Flower's strategies, and how many steps it has taken."""

    strategy: Any
    steps: int = 0


class FlowerRule:
    """Moves one expert as a Flower strategy would.

    Parameters
    ----------
    make
        Makes the strategy. There is one for each set of tensors that a round trains: Flower's
        classes keep moments by the names of the first round, but with alternating factors a
        round moves A or B alone. Each counts its own steps, for Adam's bias correction.
    shrinkage
        Damping of the mean by absent silos, as everywhere.

    """

    def __init__(self, make: Callable[[], Any], shrinkage: float) -> None:
        self._make = make
        self._shrinkage = shrinkage
        self._by_names: dict[tuple[str, ...], _Counted] = {}

    def step(self, bank: Bank, total: Update, *, silos: int) -> Bank:
        """Return the bank after the step; where nobody trained, not even momentum moves it."""
        if not float(total.weight.sum()) > 0:
            return bank
        mean = train_step(bank, total, silos=silos, shrinkage=self._shrinkage).experts
        names = tuple(sorted(total.delta))
        known = self._by_names.setdefault(names, _Counted(self._make()))
        known.steps += 1
        before, after = ({n: of[n] for n in names} for of in (bank.experts, mean))
        moved = _stepped(known.strategy, known.steps, before, after)
        return replace(bank, experts={**bank.experts, **moved})

    def arrays(self) -> dict[str, Tensor]:
        """Return steps and moments, by the tensors that they move."""
        found: dict[str, Tensor] = {}
        for number, (names, counted) in enumerate(self._by_names.items()):
            found[f"{number}/{STEPS}"] = torch.tensor(counted.steps)
            found[f"{number}/{NAMES}"] = torch.tensor(list(json.dumps(names).encode()))
            kept = _kept(counted.strategy)
            found |= {f"{number}/{name}": torch.from_numpy(np.array(x)) for name, x in kept.items()}
        return found

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Go on from the steps and moments that ``arrays`` returned."""
        by_number: dict[str, dict[str, Tensor]] = {}
        for name, tensor in arrays.items():
            number, _, rest = name.partition("/")
            by_number.setdefault(number, {})[rest] = tensor
        self._by_names = {}
        for own in by_number.values():
            names = tuple(json.loads(bytes(own.pop(NAMES).tolist())))
            counted = _Counted(self._make(), int(own.pop(STEPS)))
            _give(counted.strategy, {name: tensor.numpy() for name, tensor in own.items()})
            self._by_names[names] = counted


def _kept(strategy: Any) -> dict[str, NDArray[Any]]:
    """Return every array that a strategy keeps, as ``attribute/kind/key``.

    Flower's classes keep moments as a dictionary, as a list, or as a record.
    """
    found: dict[str, NDArray[Any]] = {}
    for attribute, value in vars(strategy).items():
        match value:
            case ArrayRecord():
                found |= {f"{attribute}/record/{key}": x.numpy() for key, x in value.items()}
            case dict():
                found |= {f"{attribute}/dict/{key}": x for key, x in value.items()}
            case list():
                found |= {f"{attribute}/list/{i:06d}": x for i, x in enumerate(value)}
    return found


def _give(strategy: Any, kept: Mapping[str, NDArray[Any]]) -> None:
    """Give a new strategy the arrays that another kept."""
    grouped: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for name, array in sorted(kept.items()):
        attribute, kind, key = name.split("/", 2)
        grouped.setdefault((attribute, kind), {})[key] = array
    for (attribute, kind), arrays in grouped.items():
        setattr(strategy, attribute, _made(kind, arrays))


def _made(kind: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return arrays in the form in which a strategy keeps them."""
    if kind == "record":
        return ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return list(arrays.values()) if kind == "list" else arrays


def _stepped(
    strategy: Any, step: int, before: Mapping[str, Tensor], mean: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return where the strategy goes from ``before`` when its silos' mean is ``mean``."""
    strategy.fraction_train = 0.0  # it is told of the round, and asks no node
    strategy.configure_train(step, _arrays(before), ConfigRecord(), cast(Grid, None))
    reply = RecordDict({"arrays": _arrays(mean), "metrics": MetricRecord({"num-examples": 1})})
    with _quiet():
        moved, _ = strategy.aggregate_train(step, [Message(reply, 0, "train")])
    return {
        name: torch.from_numpy(np.array(moved[name].numpy())).to(tensor.dtype)
        for name, tensor in before.items()
    }


def _arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in tensors.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence "received 1 results": it would be read as one silo's."""
    level = LOG.level
    LOG.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOG.setLevel(level)
