"""Any Flower strategy that needs no more than the silos' weighted mean: ``flwr:<ClassName>``."""

from __future__ import annotations

import difflib
import inspect
from functools import partial

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.strategies.flower_rule import FlowerRule, flower_classes
from fedvemoe_app.strategies.method import Method

MEAN = ("FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedProx", "FedYogi")
"""Flower's classes whose step is a function of the weighted mean alone."""

WHY_NOT = {
    "QFedAvg": "weighs each silo by its own loss",
    "FedXgb": "joins the silos' trees, and there are none",
    "DifferentialPrivacy": "clips each silo's changes at the server",
}
"""What the others need, by the beginning of their name; the rest compare the silos' changes."""

SETTINGS = {
    "eta": "server-eta",
    "beta_1": "server-beta1",
    "beta_2": "server-beta2",
    "tau": "server-tau",
    "server_momentum": "server-beta1",
    "server_learning_rate": "server-learning-rate",
    "proximal_mu": "proximal-mu",
}
"""Our setting for each parameter of Flower's constructors that changes the arithmetic."""


def method(config: RunConfig, name: str) -> Method:
    """Return the method of this run with Flower's class ``name`` at the server.

    Raises
    ------
    SettingError
        If Flower has no such class, or it needs more than the weighted mean.
    """
    _check(name)
    chosen = flower_classes()[name]
    given = config.to_flat()
    values = {
        parameter: float(given[SETTINGS[parameter]])
        for parameter in inspect.signature(chosen).parameters
        if parameter in SETTINGS
    }
    return Method(
        f"flwr:{name}",
        partial(FlowerRule, lambda: chosen(**values), config.rounds.shrinkage),
        one_expert=True,
        proximal=values.get("proximal_mu", 0.0),
        reads=tuple(SETTINGS[parameter] for parameter in values),
    )


def _check(name: str) -> None:
    if name in MEAN:
        return
    works = f"these work: {', '.join(f'flwr:{one}' for one in MEAN)}"
    known = list(flower_classes())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean flwr:{near[0]}?" if near else f"; {works}"
        raise SettingError(f'strategy = "flwr:{name}": Flower has no such strategy{hint}')
    reasons = (why for prefix, why in WHY_NOT.items() if name.startswith(prefix))
    reason = next(reasons, "compares the changes of single silos")
    raise SettingError(
        f'strategy = "flwr:{name}": it {reason}, but this server sees sums over silos and '
        f"nothing else; {works}"
    )
