"""A setting that the strategy does not follow is named, and no other is."""

from __future__ import annotations

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.registry import STRATEGIES
from fedvemoe_app.strategies.remarks import remarks

LIFECYCLE = {"lifecycle": False, "birth-worth": 0.2, "prune-worth": 0.01, "patience": 5}
E_STEP = {"rho": 0.1, "predict-floor": 0.1, "kappa": 7.0, "tau": 3.0}
CHOICE = {"gamma": 2.0, "probing": "successive", "warmup-rounds": 1, "sketch-size": 64}
SHARING = {
    "lora-factors": "B",
    "silo-weight": "equal",
    "shrinkage": 2.0,
    "fraction-train": 0.5,
}
ALL = {**LIFECYCLE, **E_STEP, **CHOICE, **SHARING}


def named(strategy: str, flat: dict[str, object]) -> set[str]:
    lines = remarks(RunConfig.from_flat({"strategy": strategy, **flat}))
    return {line.partition(" = ")[0] for line in lines}


def test_the_line_says_what_holds_instead() -> None:
    flat = {"strategy": "fedadam", "k-init": 7, "server-learning-rate": 0.5, "server-eta": 0.1}
    assert remarks(RunConfig.from_flat(flat)) == [
        "k-init = 7: fedadam works with 1",
        "server-learning-rate = 0.5: fedadam does not read it",
    ]


@pytest.mark.parametrize("strategy", [*STRATEGIES, "flwr:FedAvgM"])
def test_defaults_and_what_holds_anyhow_are_not_remarked(strategy: str) -> None:
    assert named(strategy, {}) == set()
    if strategy != "fedvemoe":
        assert named(strategy, {"private-slot": "off", "lifecycle": False}) == set()


@pytest.mark.parametrize(
    ("strategy", "idle"),
    [
        ("fedvemoe", {}),
        ("fedem", LIFECYCLE | E_STEP),
        ("ifca", LIFECYCLE | E_STEP | {"gamma": 2.0}),
        ("fedavg", LIFECYCLE | E_STEP | CHOICE),
        ("ditto", LIFECYCLE | E_STEP | CHOICE),
        ("flwr:FedAvgM", LIFECYCLE | E_STEP | CHOICE),
        ("local", ALL),
    ],
)
def test_what_a_strategy_does_not_follow_is_named(strategy: str, idle: dict[str, object]) -> None:
    assert named(strategy, ALL) == set(idle) - {"lifecycle"}


def test_a_rule_that_trains_one_expert_or_all_does_not_follow_top_m() -> None:
    assert named("ifca", {"top-m": 3}) == {"top-m"}
    assert named("fedem", {"top-m": 1}) == {"top-m"}
    assert named("fedem", {"top-m": 4, "k-init": 2}) == {"top-m"}
    assert named("fedvemoe", {"top-m": 3}) == set()
