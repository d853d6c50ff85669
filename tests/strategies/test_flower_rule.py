"""Flower's classes as server rules: their own formulas on the mean of sums, one per factor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.round import train_step
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update
from fedvemoe_app.errors import SettingError
from fedvemoe_app.strategies.flower_class import MEAN
from fedvemoe_app.strategies.flower_rule import flower_classes
from fedvemoe_app.strategies.method import ServerRule
from fedvemoe_app.strategies.registry import method_of, settle

ETA, BETA1, BETA2, TAU, SILOS = 0.05, 0.8, 0.95, 0.01, 3
SETTINGS = {
    "server-eta": ETA,
    "server-beta1": BETA1,
    "server-beta2": BETA2,
    "server-tau": TAU,
}


@pytest.fixture(autouse=True)
def _in_a_task() -> None:
    """Be a task of Flower's, as the server of a run is: its messages carry the task's number."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def start() -> Bank:
    torch.manual_seed(0)
    return Bank.start({"l.A": torch.randn(1, 2, 3), "l.B": torch.randn(1, 4, 2)}, alive=1)


def total(names: tuple[str, ...], seed: int, weight: float = 6.0) -> Update:
    """Return the sums of three silos, as after a secure sum: float64."""
    torch.manual_seed(seed)
    shapes = {name: start().experts[name].shape for name in names}
    one = torch.tensor(1.0, dtype=torch.float64)
    return Update(
        silos=3 * one,
        tokens=100 * one,
        loss=50 * one,
        silo_weight=6 * one,
        weight=torch.tensor([weight], dtype=torch.float64),
        delta={name: weight * torch.randn(shape).double() for name, shape in shapes.items()},
        squares={name: torch.ones(1).double() for name in names},
    )


def rule(strategy: str, **changes: float) -> ServerRule:
    flat = {
        "strategy": strategy,
        **SETTINGS,
        **{k.replace("_", "-"): v for k, v in changes.items()},
    }
    return method_of(RunConfig.from_flat(flat)).server()


def by_hand(strategy: str, factor: str) -> Tensor:
    """Return a factor after two rounds that moved it, by the formulas of Reddi et al."""
    theta = start().experts[factor].double()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for step in (1, 2):
        mean = total((factor,), seed=10 * step + ord(factor[-1])).delta[factor] / 6.0
        m = BETA1 * m + (1 - BETA1) * mean
        if strategy == "fedyogi":
            v = v - (1 - BETA2) * mean**2 * torch.sign(v - mean**2)
            eta = ETA
        else:
            v = BETA2 * v + (1 - BETA2) * mean**2
            eta = ETA * (1 - BETA2 ** (step + 1)) ** 0.5 / (1 - BETA1 ** (step + 1))
        theta = theta + eta * m / (v.sqrt() + TAU)
    return theta


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_two_alternating_rounds_equal_a_hand_computation(strategy: str) -> None:
    """Goes red when both factors share one Flower object, or one count of steps."""
    server, bank = rule(strategy), start()
    for step in (1, 2):
        for factor in ("l.B", "l.A"):
            sums = total((factor,), seed=10 * step + ord(factor[-1]))
            bank = server.step(bank, sums, silos=SILOS)
    for factor in ("l.A", "l.B"):
        wanted = by_hand(strategy, factor).float()
        assert bank.experts[factor].dtype == torch.float32
        torch.testing.assert_close(bank.experts[factor], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["FedAvg", "FedProx"])
def test_flowers_averages_are_ours(name: str) -> None:
    sums = total(("l.B",), seed=1)
    moved = rule(f"flwr:{name}").step(start(), sums, silos=SILOS)
    ours = train_step(start(), sums, silos=SILOS)
    torch.testing.assert_close(moved.experts["l.B"], ours.experts["l.B"])
    assert torch.equal(moved.experts["l.A"], start().experts["l.A"])


def test_absent_silos_damp_the_mean_before_flower_sees_it() -> None:
    sums = total(("l.B",), seed=1)
    moved = rule("flwr:FedAvg").step(start(), sums, silos=6)
    ours = train_step(start(), sums, silos=6)
    torch.testing.assert_close(moved.experts["l.B"], ours.experts["l.B"])


def test_momentum_is_that_of_flower() -> None:
    server, bank = rule("flwr:FedAvgM", server_learning_rate=0.5), start()
    theta, momentum = bank.experts["l.B"].double(), torch.zeros(1, 4, 2).double()
    for seed in (1, 2, 3):
        sums = total(("l.B",), seed=seed)
        momentum = BETA1 * momentum + sums.delta["l.B"] / 6.0
        theta = theta + 0.5 * momentum
        bank = server.step(bank, sums, silos=SILOS)
    torch.testing.assert_close(bank.experts["l.B"], theta.float(), rtol=1e-5, atol=1e-6)


def test_where_nobody_trained_not_even_momentum_moves_the_expert() -> None:
    server = rule("flwr:FedAvgM")
    bank = server.step(start(), total(("l.B",), seed=1), silos=SILOS)
    none = replace(total(("l.B",), seed=2), weight=torch.zeros(1, dtype=torch.float64))
    assert server.step(bank, none, silos=SILOS) is bank


@pytest.mark.parametrize("name", sorted(flower_classes()))
def test_every_class_of_flower_works_or_says_why_not(name: str) -> None:
    config = RunConfig.from_flat({"strategy": f"flwr:{name}"})
    if name in MEAN:
        bank = method_of(config).server().step(start(), total(("l.B",), seed=1), silos=SILOS)
        assert not torch.equal(bank.experts["l.B"], start().experts["l.B"])
    else:
        with pytest.raises(SettingError, match="sums over silos") as error:
            method_of(config)
        assert "flwr:FedAvgM" in str(error.value)


@pytest.mark.parametrize("strategy", ["fedvemoe", "fedavg", "ifca", "local"])
def test_settling_twice_is_settling_once_and_is_accepted(strategy: str) -> None:
    settled = settle(RunConfig.from_flat({"strategy": strategy}))
    assert settle(settled) == settled
    assert RunConfig.from_flat(settled.to_flat()) == settled
    banks = {"fedvemoe": (4, 12), "fedavg": (1, 1), "ifca": (4, 4), "local": (1, 1)}
    assert (settled.em.k_init, settled.em.k_max) == banks[strategy]
