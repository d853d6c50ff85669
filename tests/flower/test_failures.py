"""What goes wrong: a lost silo costs its own part, too many lost silos end the run in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Error, Message

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.errors import BaseModelError, DataError, RunError, SettingError
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts, put_tensors
from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Tamper
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.progress import Tail
from tests.federation import SILOS, Handler, Settings, federate, without_seconds

QUICK: Settings = {"num-server-rounds": 1, "generate-examples": 0, "eval-examples": 2}
LOST = 3  # the node of silo-02


def hits(message: Message, node: int = LOST) -> bool:
    """Say whether this is a message to the node, after it was introduced."""
    metadata = message.metadata
    return metadata.dst_node_id == node and metadata.message_type != "query.hello"


def lose(message: Message, reply: Message) -> Message | None:
    return None if hits(message) else reply


def refuse(message: Message, reply: Message) -> Message:
    return Message(Error(7, "no time"), reply_to=message) if hits(message) else reply


def poison(message: Message, reply: Message) -> Message:
    if not hits(message) or reply.has_error():
        return reply
    sums = get_tensors(reply.content, "sums")
    put_tensors(reply.content, "sums", {n: t * float("nan") for n, t in sums.items()})
    return reply


def reshape(message: Message, reply: Message) -> Message:
    if not hits(message) or reply.has_error():
        return reply
    sums = get_tensors(reply.content, "sums")
    put_tensors(reply.content, "sums", {n: t[None] for n, t in sums.items()})
    return reply


def broken(message: Message, context: Context) -> Message:
    if hits(message):
        raise RuntimeError("the silo's machine is on fire")
    return client_app(message, context)


@pytest.fixture(scope="module")
def lost(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Run a quick federation in which something goes wrong."""

    def run(**how: Tamper | Handler) -> Run:
        folder = tmp_path_factory.mktemp("lost")
        return federate({**settings_in(folder), **QUICK}, **how)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="module")
def without_silo(lost: Callable[..., Run]) -> Run:
    return lost(tamper=lose)


WAYS: dict[str, tuple[dict[str, Tamper | Handler], str]] = {
    "an error reply": ({"tamper": refuse}, "no time"),
    "an exception": ({"app": broken}, "on fire"),
    "numbers that are not finite": ({"tamper": poison}, "not finite"),
    "sums of another shape": ({"tamper": reshape}, "other names or shapes"),
}


def test_a_lost_silo_costs_its_contribution_only(without_silo: Run) -> None:
    for row in without_silo.rounds:
        assert row["mass"] is not None
        assert sum(row["mass"]) == pytest.approx(SILOS - 1)
    assert {row["client"] for row in without_silo.clients} == {"silo-00", "silo-01", "silo-03"}
    assert without_silo.rounds[1]["ppl"] is not None


def test_a_lost_silo_is_an_event_of_each_phase(without_silo: Run) -> None:
    found = [(row["round"], row["event"], row["numbers"]) for row in without_silo.events]
    phases = [(0, phase) for phase in ("assess", "sketch", "cluster", "cluster", "cluster")]
    phases += [(1, "train"), (1, "assess")]
    assert found == [
        (number, "dropout", {"silo": "silo-02", "phase": phase}) for number, phase in phases
    ]
    assert all("time ran out" in row["why"] for row in without_silo.events)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_fail_has_its_reason_and_the_same_result(
    way: str, lost: Callable[..., Run], without_silo: Run
) -> None:
    how, reason = WAYS[way]
    run = lost(**how)
    assert len(run.events) == len(without_silo.events)
    assert all(reason in row["why"] for row in run.events)
    down = "bytes_down"
    assert [{**row, down: 0} for row in without_seconds(run)] == [
        {**row, down: 0} for row in without_seconds(without_silo)
    ]


def test_a_silo_that_missed_the_bank_says_so_until_it_gets_the_next(
    settings: Callable[..., Settings],
) -> None:
    missed = []

    def app(message: Message, context: Context) -> Message:
        if hits(message) and message.metadata.message_type == "evaluate" and not missed:
            missed.append(message)
            raise RuntimeError("restarting")
        return client_app(message, context)

    run = federate({**settings(), **QUICK, "num-server-rounds": 2}, app=app)
    reasons = {row["numbers"]["phase"]: row["why"] for row in run.events}
    assert set(reasons) == {"assess", "sketch", "cluster", "train"}
    assert "holds the bank after round None, not after round 0" in reasons["sketch"]
    assert "no sketch" in reasons["cluster"]
    assert "holds the bank after round None, not after round 0" in reasons["train"]
    assert {row["round"] for row in run.events} == {0, 1}
    assert sum(run.rounds[2]["mass"] or ()) == pytest.approx(SILOS)


def test_a_silo_with_an_older_bank_does_not_train_on_it(settings: Callable[..., Settings]) -> None:
    def app(message: Message, context: Context) -> Message:
        assessed = hits(message) and message.metadata.message_type == "evaluate"
        if assessed and get_facts(message.content, "order")["round"] == 1:
            raise RuntimeError("restarting")
        return client_app(message, context)

    run = federate({**settings(), **QUICK, "num-server-rounds": 2}, app=app)
    found = [(row["round"], row["numbers"]["phase"]) for row in run.events]
    assert found == [(1, "assess"), (2, "train")]
    assert "holds the bank after round 0, not after round 1" in run.events[1]["why"]


def test_when_all_fail_the_run_ends_with_the_phase_and_every_reason(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError(f"disk full on node {context.node_id}")
        return client_app(message, context)

    chosen = {**settings(), **QUICK, "run-name": "failed"}
    with pytest.raises(RunError, match=r"round 1, phase train: 0 silos answered") as error:
        federate(chosen, app=app)
    for index in range(SILOS):
        assert f"silo-{index:02d}: " in str(error.value)
        assert f"disk full on node {index + 1}" in str(error.value)
    events = list(Tail(tmp_path / "failed" / "progress.jsonl").read())
    assert events[-1]["event"] == "failed"
    assert "phase train" in events[-1]["reason"]
    rows = (tmp_path / "failed" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(row)["round"] for row in rows] == [0]


def test_fewer_than_min_silos_end_the_run(settings: Callable[..., Settings]) -> None:
    with pytest.raises(
        RunError, match=r"phase assess: 3 silos answered, min-silos = 4; asked .* 2"
    ):
        federate({**settings(min_silos=SILOS, void_retries=1), **QUICK}, tamper=lose)


def test_too_few_connected_silos_end_the_wait(settings: Callable[..., Settings]) -> None:
    with pytest.raises(RunError, match=r"4 silos connected within 1 s, but min-silos = 5"):
        federate(settings(min_silos=5, phase_timeout=1))


def test_a_silo_on_another_base_is_refused_with_both_fingerprints(
    settings: Callable[..., Settings], small_base: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(small_base, tmp_path / "other-base")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "tuned"}))

    def swap(grid: InProcessGrid) -> None:
        grid.contexts[LOST].run_config["model-name"] = str(other)

    run = federate({**settings(), **QUICK}, prepare=swap)
    (event,) = run.events
    assert (event["round"], event["numbers"]["phase"]) == (0, "hello")
    assert run.manifest["base"][:16] in event["why"]
    theirs = event["why"].partition("fingerprint ")[2][:16]
    assert theirs != run.manifest["base"][:16]
    assert str(other) in event["why"]
    assert {row["client"] for row in run.clients} == {"silo-00", "silo-01", "silo-03"}


def test_silos_with_other_code_are_refused(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedvemoe_app.flower.silo.phases.code_hash", lambda: "0" * 64)
    with pytest.raises(RunError, match=r"phase hello: 0 silos answered.*other code \(000000"):
        federate({**settings(), **QUICK})


def test_a_node_that_does_not_know_its_part_is_refused(settings: Callable[..., Settings]) -> None:
    def forget(grid: InProcessGrid) -> None:
        del grid.contexts[LOST].node_config["partition-id"]

    run = federate({**settings(), **QUICK}, prepare=forget)
    assert "partition-id" in run.events[0]["why"]


@pytest.mark.parametrize("said", [{}, [1], {"name": 3}, {"name": ["silo-02"]}])
def test_a_silo_that_does_not_say_its_name_is_left_out(
    said: object, settings: Callable[..., Settings]
) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        metadata = message.metadata
        if (metadata.dst_node_id, metadata.message_type) == (LOST, "query.hello"):
            put_facts(reply.content, "report", said)
        return reply

    run = federate({**settings(start="none"), **QUICK}, tamper=tamper)
    (event,) = run.events
    assert event["why"] == "it does not say its name"
    assert {row["client"] for row in run.clients} == {"silo-00", "silo-01", "silo-03"}


def test_two_nodes_with_one_part_end_the_run(settings: Callable[..., Settings]) -> None:
    def double(grid: InProcessGrid) -> None:
        grid.contexts[LOST].node_config["partition-id"] = 0

    with pytest.raises(RunError, match="same name"):
        federate({**settings(), **QUICK}, prepare=double)


def test_an_existing_folder_is_refused_before_any_silo_is_asked(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    asked = []
    with pytest.raises(RunError, match=r"taken exists already: choose another run-name"):
        federate(settings(run_name="taken"), tamper=lambda m, r: asked.append(m))
    assert asked == []


BAD: dict[str, tuple[Settings, type[Exception], str]] = {
    "no such bank": ({"dataset-name": "/nowhere/tasks"}, DataError, "/nowhere/tasks"),
    "no such base": ({"model-name": "/nowhere/base"}, BaseModelError, "/nowhere/base"),
    "no such category": ({"keyword-categories": "poetry"}, DataError, "poetry"),
    "no such baseline": ({"local-baseline-json": "/nowhere/b"}, DataError, "local-baseline-json"),
    "no such layer": ({"target-modules": "q_prj"}, SettingError, "target-modules: q_prj"),
    "sample below min-silos": ({"fraction-train": 0.25}, SettingError, "fraction-train"),
}


@pytest.mark.parametrize("what", BAD)
def test_wrong_settings_are_named_before_any_silo_is_asked(
    what: str, settings: Callable[..., Settings]
) -> None:
    changes, kind, named = BAD[what]
    asked = []
    with pytest.raises(kind, match=named):
        federate({**settings(), **changes}, tamper=lambda m, r: asked.append(m))
    assert asked == []


def test_half_of_the_silos_train_and_the_same_half_for_a_seed(
    settings: Callable[..., Settings],
) -> None:
    trained: list[tuple[str, int]] = []

    def watch(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train":
            round_ = get_facts(message.content, "order")["round"]
            trained.append((round_, message.metadata.dst_node_id))
        return reply

    chosen = {**settings(fraction_train=0.5, eval_every=3), **QUICK, "num-server-rounds": 3}
    run = federate(chosen, tamper=watch)
    assert run.events == []
    by_round = [{node for number, node in trained if number == r} for r in (1, 2, 3)]
    assert [len(nodes) for nodes in by_round] == [2, 2, 2]
    assert len(set.union(*by_round)) > 2
    again, trained = trained, []
    federate({**chosen, "run-name": "again"}, tamper=watch)
    assert trained == again
    assert torch.tensor([sum(row["mass"] or ()) for row in run.rounds]).tolist() == [4, 2, 2, 4]
