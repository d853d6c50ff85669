"""Every strategy by name, and what a run's settings mean to the one that was chosen."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.strategies import (
    ditto,
    fedadam,
    fedavg,
    fedem,
    fedprox,
    fedvemoe,
    fedyogi,
    flower_class,
    ifca,
    local,
)
from fedvemoe_app.strategies.method import Method

STRATEGIES: dict[str, Callable[[RunConfig], Method]] = {
    "fedvemoe": fedvemoe.method,
    "fedavg": fedavg.method,
    "fedprox": fedprox.method,
    "fedadam": fedadam.method,
    "fedyogi": fedyogi.method,
    "ifca": ifca.method,
    "fedem": fedem.method,
    "ditto": ditto.method,
    "local": local.method,
}
FLOWER = "flwr:"


def method_of(config: RunConfig) -> Method:
    """Return the method that the run's ``strategy`` names; SettingError where there is none."""
    name = config.rounds.strategy
    if name.startswith(FLOWER):
        return flower_class.method(config, name.removeprefix(FLOWER))
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join([*STRATEGIES, f"{FLOWER}<ClassName>"])
        raise SettingError(f'strategy = "{name}": this version has: {known}{hint}')
    return STRATEGIES[name](config)


def settle(config: RunConfig) -> RunConfig:
    """Return the settings with the bank that the strategy works on.

    Server and silos do this each for themselves, and twice is the same as once.

    Raises
    ------
    SettingError
        Where the strategy is unknown, or cannot work under these settings.
    """
    method, em = method_of(config), config.em
    if method.one_expert:
        em = replace(em, k_init=1, k_max=1, top_m=1, start="none")
    elif not method.lifecycle:
        em = replace(em, k_max=em.k_init, top_m=min(em.top_m, em.k_init))
    _check(replace(config, em=em), method)
    return replace(config, em=em)


def _check(config: RunConfig, method: Method) -> None:
    em, rounds = config.em, config.rounds
    rules = [
        (
            method.told_apart and em.start == "none" and em.k_init > 1,
            f'start = "none": {method.name} cannot tell {em.k_init} equal experts apart; use '
            "start = random or start = sketch",
        ),
        (
            not method.shared and config.output.reports != "full",
            f'reporting = "{config.output.reports}": {method.name} writes a baseline for each '
            "silo, which needs reporting = full",
        ),
        (
            not method.shared and 0 < rounds.total_steps < rounds.num_server_rounds,
            f"total-steps = {rounds.total_steps} is below num-server-rounds = "
            f"{rounds.num_server_rounds}: lower the latter, a round takes a step at least",
        ),
    ]
    for broken, message in rules:
        if broken:
            raise SettingError(message)
