"""Every strategy by one setting: whole runs, and what tells one from another."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.messages.wire import get_tensors
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.silo.memory import recall_own
from fedvemoe_app.personal import Personal
from fedvemoe_app.report.journal import Run
from fedvemoe_app.strategies.registry import STRATEGIES
from tests.federation import SILOS, Settings, federate, without_seconds

QUICK: Settings = {
    "c-min": 1,
    "target-modules": "q_proj,v_proj",
    "generate-examples": 0,
    "eval-examples": 3,
    "probe-tokens": 30,
    "local-steps": 3,
    "eval-every": 2,
}
SPECIAL: dict[str, Settings] = {
    "ifca": {"start": "random"},
    "fedem": {"start": "random", "expert-weight": "silo"},
    "flwr:FedAvgM": {"server-beta1": 0.5},
    "local": {"local-steps": 12},
    "private": {"strategy": "fedvemoe", "private-slot": "local", "local-steps": 12},
    "tuned": {"strategy": "fedvemoe", "private-slot": "tuned"},
    "single": {
        "strategy": "fedvemoe",
        "k-init": 1,
        "k-max": 1,
        "top-m": 1,
        "start": "none",
        "lifecycle": False,
    },
    "fedprox, mu = 0": {"strategy": "fedprox", "proximal-mu": 0.0},
}


class Made:
    """A finished run, with every message between server and silos, and what silos remember."""

    def __init__(self, settings: Settings) -> None:
        self.messages: list[tuple[Message, Message]] = []
        self.grid: InProcessGrid | None = None
        self.settings = settings
        self.run = federate(settings, tamper=self._watch, prepare=self._keep)

    def _watch(self, message: Message, reply: Message) -> Message:
        self.messages.append((message, reply))
        return reply

    def _keep(self, grid: InProcessGrid) -> None:
        self.grid = grid

    def own(self) -> list[Personal]:
        """Return the silos' own experts."""
        assert self.grid is not None
        found = [recall_own(context.state) for context in self.grid.contexts.values()]
        return [own for own in found if own is not None]

    def adapter(self) -> dict[str, Tensor]:
        """Return the first expert's tensors as saved."""
        return load_file(self.run.folder / "experts" / "slot_00" / "adapter_model.safetensors")

    def sums(self, kind: str) -> list[dict[str, Tensor]]:
        """Return what silos summed in messages of ``kind``, under plain sums."""
        return [
            get_tensors(reply.content, "sums")
            for message, reply in self.messages
            if message.metadata.message_type == kind
        ]


@pytest.fixture(scope="module")
def made(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Made]:
    """Return the run of a strategy, or of a special case of one, made once."""

    @cache
    def run(name: str, privacy: str = "none") -> Made:
        settings = settings_in(tmp_path_factory.mktemp("run"), privacy=privacy, strategy=name)
        return Made({**settings, **QUICK, **SPECIAL.get(name, {})})

    return run


def rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of rounds.jsonl without what two strategies may differ in."""
    return [{**row, "strategy": ""} for row in without_seconds(run)]


@pytest.mark.parametrize("name", [*STRATEGIES, "flwr:FedAvgM", "private", "tuned"])
def test_a_strategy_is_one_setting_and_it_learns(name: str, made: Callable[..., Made]) -> None:
    run = made(name).run
    first, _, last = run.rounds
    assert first["ppl"] is not None
    assert last["ppl"] is not None
    assert last["ppl"] < first["ppl"]
    assert last["strategy"] == made(name).settings["strategy"]
    assert run.events == []


@pytest.mark.parametrize("name", ["fedadam", "ifca", "fedem", "ditto", "local", "private"])
def test_and_it_runs_the_same_under_secure_sums(name: str, made: Callable[..., Made]) -> None:
    masked, plain = made(name, "secagg").run, made(name).run
    assert masked.events == []
    for mine, theirs in zip(masked.rounds, plain.rounds, strict=True):
        for figure in [name for name in ("ppl", "loss_train", "mass") if theirs[name] is not None]:  # type: ignore[literal-required]
            assert mine[figure] == pytest.approx(theirs[figure], rel=1e-3)  # type: ignore[literal-required]


# Laws between strategies.


@pytest.mark.parametrize("special", ["single", "fedprox, mu = 0"])
def test_a_special_case_is_fedavg_bit_for_bit(special: str, made: Callable[..., Made]) -> None:
    mine, fedavg = made(special), made("fedavg")
    assert rows(mine.run) == rows(fedavg.run)
    assert mine.run.clients == fedavg.run.clients
    one, other = mine.adapter(), fedavg.adapter()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_silo_of_fedem_trains_all_experts_and_of_ifca_one(
    made: Callable[..., Made],
) -> None:
    """The second round is the first after the random start."""
    last = {name: made(name).sums("train")[-SILOS:] for name in ("fedem", "ifca")}
    assert all((silo["weight"] > 0).all() for silo in last["fedem"])
    assert [int((silo["weight"] > 0).sum()) for silo in last["ifca"]] == [1] * SILOS
    for silo in last["fedem"]:  # expert-weight = silo
        assert silo["weight"].tolist() == [float(silo["silo_weight"])] * 2


def test_a_random_start_is_drawn_by_each_silo_and_counted(made: Callable[..., Made]) -> None:
    first = made("ifca").sums("train")[:SILOS]
    assert [int((silo["weight"] > 0).sum()) for silo in first] == [1] * SILOS
    counted = sum(silo["contributors"] for silo in made("ifca").sums("evaluate")[:SILOS])
    assert torch.equal(counted, sum((silo["weight"] > 0).double() for silo in first))
    assert {int(silo["weight"].argmax()) for silo in first} == {0, 1}


# A silo's own expert.


def test_the_private_slot_is_the_local_baseline_bit_for_bit(made: Callable[..., Made]) -> None:
    local, private = made("local").own(), made("private").own()
    assert len(local) == len(private) == SILOS
    for one, other in zip(local, private, strict=True):
        assert torch.equal(one.log_lik, other.log_lik)
        for version in ("last", "best"):
            mine, theirs = getattr(one, version), getattr(other, version)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_own_expert_moves_in_both_factors(made: Callable[..., Made]) -> None:
    for own in made("local").own():
        assert all(tensor.abs().max() > 0 for n, tensor in own.last.items() if n.endswith(".B"))
    one, other = (own.last for own in made("local").own()[:2])
    assert not any(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["private", "tuned", "ditto", "local"])
def test_no_message_holds_a_silos_own_expert(name: str, made: Callable[..., Made]) -> None:
    """Goes red when an own expert, or a change of it, is added to any reply."""
    known = {}
    for index, own in enumerate(made(name).own()):
        for version in (own.last, own.best):
            for tensor in version.values():
                known[tensor.numpy().tobytes()[:64]] = index
    assert known
    received = b"".join(
        array.numpy().tobytes()
        for _, reply in made(name).messages
        for record in reply.content.array_records.values()
        for array in record.values()
    )
    trained = {k for k in known if k not in shared(made(name))}
    assert trained
    assert not [index for part, index in known.items() if part in trained and part in received]


def shared(made: Made) -> set[bytes]:
    """Return the beginnings of the tensors that LoRA's public start and the banks consist of."""
    return {
        tensor.numpy().tobytes()[:64]
        for message, _ in made.messages
        if "experts" in message.content
        for stack in get_tensors(message.content, "experts").values()
        for tensor in stack
    }


def test_local_sums_nothing_but_metrics_and_is_sent_no_expert(made: Callable[..., Made]) -> None:
    local = made("local")
    for silo in local.sums("train"):
        assert set(silo) == {"silos", "tokens", "loss", "silo_weight", "weight"}
        assert float(silo["weight"]) == float(silo["silo_weight"]) == 0.0
    assert not any("experts" in message.content for message, _ in local.messages)
    assert not (local.run.folder / "experts").exists()


def test_the_private_slot_predicts_beside_the_shared_experts(made: Callable[..., Made]) -> None:
    rows = [row for row in made("private").run.clients if row["round"] == 2]
    assert any(row["private"] > 0.02 for row in rows)
    for row in rows:
        assert row["responsibilities"] is not None
        assert sum(row["responsibilities"]) == pytest.approx(1.0)
    assert {row["private"] for row in made("ditto").run.clients if row["round"] == 2} == {1.0}


def test_the_bank_does_not_see_the_private_slot(made: Callable[..., Made]) -> None:
    """What is summed for the experts is the same with and without it."""
    with_, without = made("private"), Made({**made("private").settings, "private-slot": "off",
                                            "run-name": "without"})  # fmt: skip
    for kind in ("train", "evaluate"):
        for one, other in zip(with_.sums(kind), without.sums(kind), strict=True):
            assert one.keys() == other.keys()
            own = ("scores", "ppl_histogram", "transfer", "transfer_histogram")
            assert all(torch.equal(one[name], other[name]) for name in one if name not in own)


# Local baselines.


def test_local_leaves_baselines_that_read_back(made: Callable[..., Made], tmp_path: Path) -> None:
    run = made("local").run
    known = read_baselines(run.folder / "local_baselines.json", [f"silo-0{i}" for i in range(4)])
    for silo, row in run.last_clients.items():
        assert known.clients[silo].ppl == row["ppl"]
        assert known.clients[silo].ppl_early_stopped == row["ppl_alone"]
        assert row["negative_transfer"] == pytest.approx(math.log(row["ppl"] / row["ppl_alone"]))
    assert known.settings["strategy"] == "local"


def test_without_a_file_the_silos_own_expert_is_the_baseline(made: Callable[..., Made]) -> None:
    private, local = made("private").run, made("local").run
    early = read_baselines(local.folder / "local_baselines.json").references()
    assert private.rounds[2]["negative_transfer_share"] is not None
    for row in private.clients:
        if row["round"]:
            assert row["ppl_alone"] == early[row["client"]]
            expected = math.log(row["ppl"] or 0.0) - math.log(early[row["client"]])
            assert row["negative_transfer"] == pytest.approx(expected)


def test_a_file_of_baselines_wins_and_total_steps_are_spread(
    made: Callable[..., Made], tmp_path: Path
) -> None:
    settings, out = made("local").settings, tmp_path / "made" / "local.json"
    own = {"total-steps": 5, "out-json": str(out), "run-name": "short", "log-dir": str(tmp_path)}
    short = Made({**settings, **own})
    assert out.read_bytes() == (short.run.folder / "local_baselines.json").read_bytes()
    tokens = [float(sum(silo["tokens"] for silo in short.sums("train")[i * 4 : i * 4 + 4]))
              for i in (0, 1)]  # fmt: skip
    assert 0 < tokens[0] < tokens[1]  # two steps, then three
    content = json.loads(out.read_text())
    for row in content["clients"].values():
        row["ppl_early_stopped"] = 1.25
    out.write_text(json.dumps(content))
    again = {"local-baseline-json": str(out), "run-name": "again", "log-dir": str(tmp_path)}
    private = federate({**made("private").settings, **again})
    for row in private.clients:
        expected = math.log(row["ppl"] or 0.0) - math.log(1.25)
        assert row["negative_transfer"] == pytest.approx(expected)


# What cannot be.


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"strategy": "fedsgd"}, 'strategy = "fedsgd": this version has: fedvemoe, fedavg'),
        ({"strategy": "fedpox"}, "did you mean fedprox?"),
        ({"strategy": "ifca", "start": "none"}, "ifca cannot tell 4 equal experts apart"),
        ({"strategy": "fedem", "start": "none"}, "start = random"),
        ({"strategy": "local", "reporting": "aggregate"}, "needs reporting = full"),
        ({"strategy": "local", "total-steps": 3}, "below num-server-rounds = 10"),
        ({"strategy": "flwr:Krum"}, "sees sums over silos"),
        ({"strategy": "flwr:QFedAvg"}, "its own loss"),
        ({"strategy": "flwr:FedAdm"}, "did you mean flwr:FedAdam?"),
    ],
)
def test_what_a_strategy_cannot_do_is_refused_before_any_silo_is_asked(
    flat: Settings, message: str
) -> None:
    class Nobody(InProcessGrid):
        def __init__(self) -> None:
            """Know of no silo: whoever asks for one fails."""

    from fedvemoe_app.flower.server.run import run

    with pytest.raises(SettingError) as error:
        run(Nobody(), RunConfig.from_flat(flat))
    assert message in str(error.value)
