"""Noised sums: whole small runs, what a silo refuses, and what leaves it when it is shown numbers.

Removed by hand, each turned a test here or in tests/dp red: the clip; the noise; the ledger; the
check on shared noise; what a node config demands; the guard on closed experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.dp import DpSettings
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.flower.messages.privacy import check_dp
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts
from fedvemoe_app.flower.sums.noised import NoisedGrid, release_number
from fedvemoe_app.flower.sums.one_reply import Tally, sums_of
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.flower.small_sums import TEMPLATE, SmallSums, numbers

NOISED: dict[str, Any] = {
    "start": "none",
    "silo_weight": "equal",
    "reporting": "aggregate",
    "lifecycle": False,
}
QUICK: dict[str, Any] = {
    "generate_examples": 0,
    "eval_examples": 1,
    "target_modules": "q_proj",
    "probe_tokens": 20,
    "local_steps": 2,
    "lora_factors": "alternate",
}
ROUNDS = 2


@pytest.fixture(scope="module")
def in_folder(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Settings]:
    folder = tmp_path_factory.mktemp("noised")
    return lambda **changes: settings_in(
        folder, num_server_rounds=ROUNDS, **{**NOISED, **QUICK, **changes}
    )


@pytest.fixture(scope="module")
def central(in_folder: Callable[..., Settings]) -> Run:
    return federate(in_folder(dp="central", privacy="secagg", dp_noise=2.0))


@pytest.fixture(scope="module")
def local(in_folder: Callable[..., Settings]) -> Run:
    return federate(in_folder(dp="local", dp_noise=2.0, dp_evaluation=True, reporting="full"))


@pytest.fixture(scope="module")
def plain(in_folder: Callable[..., Settings]) -> Run:
    return federate(in_folder())


def test_epsilon_grows_over_the_rows_and_is_in_the_summary(central: Run) -> None:
    spent = [row["epsilon"] for row in central.rounds]
    assert len(spent) == ROUNDS + 1
    assert spent == sorted(set(spent))
    assert central.summary is not None
    assert central.summary["epsilon"] == spent[-1]
    assert central.summary["delta"] == central.config["dp-delta"]
    assert central.summary["outside_epsilon"] == []


def test_both_forms_spend_the_same(central: Run, local: Run) -> None:
    assert [r["epsilon"] for r in central.rounds] == [r["epsilon"] for r in local.rounds]


def test_scores_stay_at_home_without_consent(central: Run, local: Run) -> None:
    assert not central.tasks
    assert not central.clients
    assert all(row["ppl"] is None for row in central.rounds)
    assert local.summary is not None
    assert local.summary["outside_epsilon"] == ["evaluation", "reports by name"]
    assert all(row["ppl"] for row in local.rounds)
    assert all(row["loss_train"] is None for row in local.rounds)


def test_without_dp_nothing_speaks_of_it(plain: Run) -> None:
    assert all("epsilon" not in row for row in plain.rounds)
    assert plain.summary is not None
    assert "epsilon" not in plain.summary


def test_with_next_to_no_noise_and_a_wide_clip_a_run_is_the_run_without(
    plain: Run, in_folder: Callable[..., Settings]
) -> None:
    wide = {"dp_noise": 1e-3, "dp_clip": 30.0, "dp_statistics_clip": 3.0, "privacy": "sim"}
    run = federate(in_folder(dp="central", dp_evaluation=True, c_min=1, **wide))
    for mine, other in zip(run.rounds, plain.rounds, strict=True):
        assert mine["mass"] == pytest.approx(other["mass"], abs=0.05)
        assert mine["ppl"] == pytest.approx(other["ppl"], rel=0.05)


def test_a_simulation_repeats_its_noise(local: Run, in_folder: Callable[..., Settings]) -> None:
    again = federate(in_folder(dp="local", dp_noise=2.0, dp_evaluation=True, reporting="full"))
    assert without_seconds(again) == without_seconds(local)


# One silo, shown numbers of a test's own.


class NoisedSums(SmallSums):
    """Silos of a noised run behind a noised grid."""

    def __init__(self, patch: pytest.MonkeyPatch, *, privacy: str = "none", **dp: Any) -> None:
        super().__init__(patch, privacy=privacy)
        self.settings = DpSettings(**{"dp": "local", **dp})
        flat = {f"dp_{k}" if not k.startswith("dp") else k: v for k, v in dp.items()}
        values = {"dp": "local", **NOISED, "num_server_rounds": 50, **flat}
        for context in self.silos.contexts.values():
            context.run_config.update({k.replace("_", "-"): v for k, v in values.items()})
        self.inner = self.server
        self.server = NoisedGrid(self.inner, self.names, self.settings, 3)

    def order(self, node: int, number: int, silos: int, step: float = 2.0**-20) -> Message:
        """Return a message as a server might write it."""
        message = self.message(node, Template(TEMPLATE.shapes, TEMPLATE.rms, step))
        put_facts(message.content, "dp", {"number": number, "silos": silos})
        return message


def left(reply: Message) -> dict[str, Tensor]:
    return get_tensors(reply.content, "sums")


def test_a_silo_that_sends_anything_moves_the_sum_by_the_clip_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums = NoisedSums(monkeypatch, dp_noise=1e-3)
    zero = {name: torch.zeros_like(array) for name, array in numbers(0).items()}
    sums.values = dict.fromkeys(range(SILOS), zero) | {
        0: {name: 1e6 * array for name, array in numbers(0).items()}
    }
    total, tally = sums.sum()
    assert not tally.failures
    assert float(total["delta"].norm()) == pytest.approx(1.0, abs=0.1)
    assert float(total["mass"].norm()) <= 1.0 + 0.1


@pytest.mark.parametrize("privacy", ["none", "sim", "secagg"])
def test_every_form_of_sum_carries_the_promised_noise(
    monkeypatch: pytest.MonkeyPatch, privacy: str
) -> None:
    sums = NoisedSums(monkeypatch, privacy=privacy, dp="central", dp_noise=5.0)
    sums.values = {i: {n: 0 * a for n, a in numbers(0).items()} for i in range(SILOS)}
    draws = torch.cat([sums.sum()[0]["delta"].flatten() for _ in range(10)])
    # Three of four must be there and share the noise, four are: sqrt(4/3) times as much.
    expected = 5.0 / math.sqrt(0.9) * math.sqrt(4 / 3)
    assert float(draws.std()) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("privacy", ["none", "sim"])
def test_a_masked_sum_is_the_unmasked_one(monkeypatch: pytest.MonkeyPatch, privacy: str) -> None:
    found = [
        NoisedSums(monkeypatch, privacy=form, dp="central").sum()[0] for form in (privacy, "secagg")
    ]
    for name, total in found[0].items():
        masked = found[1][name]  # every grid is a multiple of its word's
        assert torch.equal(total.to(masked.dtype), masked), name


def test_too_few_silos_for_their_noise_make_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = NoisedSums(monkeypatch, dp="central")
    sums.set_everywhere()
    for node in (1, 2):
        sums.silos.contexts[node].node_config["accepted-dp"] = "local"
    total, tally = sums.sum()
    assert (total, tally.answered) == ({}, 0)
    assert "2 of 4 silos left, their noise needs 3" in tally.void
    assert tally.epsilon is not None
    assert tally.epsilon > 0


def test_a_release_leaves_a_silo_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = NoisedSums(monkeypatch)
    first, again, older, next_, beyond = (
        sums.silos.say(sums.order(1, number, 1)) for number in (3, 3, 2, 4, 101)
    )
    assert left(first).keys() == TEMPLATE.shapes.keys()
    assert not next_.has_error()
    for refused in (again, older, beyond):
        assert refused.has_error()
        assert not refused.has_content()


@pytest.mark.parametrize("silos", [0, 4])
def test_a_server_cannot_talk_noise_away(monkeypatch: pytest.MonkeyPatch, silos: int) -> None:
    sums = NoisedSums(monkeypatch, privacy="secagg", dp="central")
    honest = NoisedGrid._least
    assert honest(sums.server, SILOS) == 3  # type: ignore[arg-type]
    monkeypatch.setattr(NoisedGrid, "_least", lambda self, asked: silos)
    with pytest.raises((ZeroDivisionError, RunError)) if not silos else _nothing():
        total, tally = sums.sum()
        assert total == {}
        assert len(tally.failures) == SILOS


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_noise_of_local_is_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = NoisedSums(monkeypatch)
    assert sums.silos.say(sums.order(1, 1, 2)).has_error()
    assert not sums.silos.say(sums.order(1, 1, 1)).has_error()


def test_a_coarse_grid_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = NoisedSums(monkeypatch)
    assert sums.silos.say(sums.order(1, 1, 1, step=1.0)).has_error()


def test_a_message_that_asks_for_no_noise_gets_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = NoisedSums(monkeypatch)
    assert sums.silos.say(sums.message(1)).has_error()


@pytest.mark.parametrize(
    ("demand", "taken"),
    [
        ({"accepted-dp": "central,local"}, True),
        ({"accepted-dp": "central"}, False),
        ({"least-dp-noise": 1.0}, True),
        ({"least-dp-noise": 1.5}, False),
    ],
)
def test_a_silo_demands_noise_of_its_own_accord(
    monkeypatch: pytest.MonkeyPatch, demand: dict[str, str], taken: bool
) -> None:
    sums = NoisedSums(monkeypatch)
    sums.silos.contexts[1].node_config.update(demand)
    assert sums.silos.say(sums.order(1, 1, 1)).has_error() is not taken


def test_a_silo_that_demands_noise_refuses_a_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, privacy="none")
    sums.silos.contexts[1].node_config["accepted-dp"] = "central,local"
    total, tally = sums.sum()
    assert total["count"] == SILOS - 1
    assert "dp = off is not accepted" in tally.failures["silo-00"]


def test_a_deployed_silo_draws_its_noise_from_the_operating_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def once() -> Tensor:
        sums = NoisedSums(monkeypatch)
        return left(sums.silos.say(sums.order(1, 1, 1)))["delta"]

    assert torch.equal(once(), once())
    monkeypatch.setattr("fedvemoe_app.flower.silo.noised.simulated", lambda context: False)
    assert not torch.equal(once(), once())


# The server's end.


def test_a_closed_expert_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []

    class Inner:
        def sum(self, sent: Any, timeout: Any) -> tuple[dict[str, Tensor], Tally]:
            return {"weight": torch.tensor([0.3, 4.0, 2.0])}, Tally(answered=3)

    grid = NoisedGrid(Inner(), {1: "a", 2: "b", 3: "c"}, DpSettings(dp="local"), 3)  # type: ignore[arg-type]
    content = RecordDict()
    put_facts(content, "order", {"round": 1, "open": [True, True, False]})
    Template({"weight": (3,)}).put(content)
    (reply,) = grid.send_and_receive([Message(content, 1, "train")])
    seen.append(sums_of(reply))
    assert seen[0]["weight"].tolist() == [1.0, 4.0, 0.0]
    assert get_facts(content, "dp") == {"number": 1, "silos": 1}


def test_releases_of_a_run_are_numbered_and_strangers_have_none() -> None:
    numbers_ = [release_number("evaluate", 0)]
    for round_ in (1, 2, 3):
        numbers_ += [release_number("train", round_), release_number("evaluate", round_)]
    assert numbers_ == list(range(7))
    with pytest.raises(RunError, match="in no account"):
        release_number("query.sketch", 0)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"start": "sketch"}, "start = none"),
        ({"silo-weight": "sqrt"}, "silo-weight = equal"),
        ({"reporting": "full"}, "aggregate"),
        ({"lifecycle": True}, "lifecycle = false"),
    ],
)
def test_settings_that_the_account_would_not_cover_are_refused(
    changes: Settings, fix: str, tmp_path: Path
) -> None:
    good = {"dp": "central", **{k.replace("_", "-"): v for k, v in NOISED.items()}}
    check_dp(RunConfig.from_flat(good))
    check_dp(RunConfig.from_flat({**good, **changes, "dp": "off"}))
    with pytest.raises(SettingError, match=fix):
        check_dp(RunConfig.from_flat({**good, **changes}))
