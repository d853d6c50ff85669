"""A silo's messages answered by its worker: the same replies and memory as without one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from fedvemoe_app.client_app import app
from fedvemoe_app.flower.messages.parts import cut, following
from fedvemoe_app.flower.messages.wire import put_tensors
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.silo import by_worker
from fedvemoe_app.flower.silo.answers import BROKEN, REFUSED
from fedvemoe_app.worker.place import Owner
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.worker.living import end_workers, workers

Value = bool | int | float | str


@pytest.fixture
def node() -> Iterator[dict[str, Value]]:
    """A node config that wants a worker; all workers it started are ended."""
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        yield {"partition-id": 0, "num-partitions": SILOS, "worker": True, "worker-folder": folder}
        end_workers(folder)


def context_of(node: dict[str, Value], **changes: Value) -> Context:
    more = {key.replace("_", "-"): value for key, value in changes.items()}
    return Context(1, 1, {**node, **more}, RecordDict(), {"reporting": "full"})


def ask(kind: str, content: RecordDict, context: Context) -> Message:
    grid = InProcessGrid(app, {}, 1)
    grid.contexts[1] = context
    (reply,) = grid.send_and_receive([Message(content, 1, kind, group_id="1")])
    return reply


def parts() -> list[RecordDict]:
    """Return a large message as it travels ahead, piece by piece."""
    content = RecordDict()
    put_tensors(content, "bank", {"factor": torch.arange(300_000.0)})
    plan, pieces = cut(content, 500_000)
    return [following(plan, number, piece) for number, piece in enumerate(pieces)][1:]


def told(context: Context) -> bytes:
    return bytes(recorddict_to_proto(context.state).SerializeToString(deterministic=True))


def test_reply_and_memory_are_those_of_a_silo_without_a_worker(node: dict[str, Value]) -> None:
    with_one, without = context_of(node), context_of(node, worker=False)
    for content in parts():
        replies = [ask("query.ahead", content, one) for one in (with_one, without)]
        assert [reply.has_error() for reply in replies] == [False, False]
        assert told(with_one) == told(without)
    assert len(told(with_one)) > 500_000
    last = [ask("query.part", parts()[0], one) for one in (with_one, without)]
    assert [reply.error.code for reply in last] == [REFUSED, REFUSED]
    assert last[0].error.reason == last[1].error.reason
    (worker,) = workers(node["worker-folder"])
    assert worker.pid != os.getpid()


def test_a_killed_worker_is_an_error_reply_and_forgets_nothing(
    node: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(node)
    monkeypatch.setattr(by_worker, "HANDLER", "tests.worker.handlers:gone")
    put_tensors(context.state, "kept", {"number": torch.ones(3)})
    before = told(context)
    reply = ask("query.hello", RecordDict(), context)
    assert reply.error.code == REFUSED
    assert "the next message starts another" in reply.error.reason
    assert told(context) == before


@pytest.mark.parametrize(
    ("node_config", "wanted"),
    [
        ({}, False),
        ({"identity-key": "silo.pem"}, True),
        ({"identity-key": "silo.pem", "worker": False}, False),
        ({"worker": True}, True),
    ],
)
def test_a_deployed_silo_has_a_worker_unless_it_wants_none(
    node_config: dict[str, Value], wanted: bool
) -> None:
    assert by_worker.has_worker(node_config) is wanted


WRONG: dict[str, tuple[dict[str, Value], str]] = {
    "word": ({"worker": "yes"}, 'node config of this silo: worker = "yes": must be of type bool'),
    "idle": ({"worker-idle": 0}, "worker-idle = 0.0: must be at least 1"),
    "idle word": ({"worker-idle": "long"}, 'worker-idle = "long"'),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_key_is_an_error_reply(what: str, node: dict[str, Value]) -> None:
    changes, reason = WRONG[what]
    reply = ask("query.hello", RecordDict(), Context(1, 1, node | changes, RecordDict(), {}))
    assert reply.error.code == REFUSED
    assert reason in reply.error.reason


def test_without_a_safe_place_a_silo_does_without_its_worker(
    node: dict[str, Value], caplog: pytest.LogCaptureFixture
) -> None:
    context = context_of(node, worker_folder="/nowhere")
    assert not ask("query.ahead", parts()[0], context).has_error()
    assert len(told(context)) > 100_000
    assert workers(node["worker-folder"]) == []
    assert "does without its worker: /nowhere" in caplog.text


def test_the_worker_belongs_to_the_process_that_started_this_one(node: dict[str, Value]) -> None:
    door = by_worker.door_to(context_of(node))
    assert door.owner == Owner.of(os.getppid())


def test_terms_are_code_run_settings_and_node_config(
    node: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terms(**changes: object) -> str:
        context = context_of(node)
        for name, value in changes.items():
            setattr(context, name, value)
        return by_worker.door_to(context).service.terms

    same = terms()
    assert terms(state=RecordDict()) == same
    others = {
        terms(run_id=2),
        terms(run_config={"reporting": "aggregate"}),
        terms(node_config={**node, "device": "cpu"}),
    }
    monkeypatch.setattr(by_worker, "code_hash", lambda: "other")
    assert len(others | {same, terms()}) == 5


@pytest.mark.parametrize("sound", [True, False])
def test_a_process_whose_gpu_is_lost_ends(
    sound: bool, node: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if not sound:
            raise RuntimeError("CUDA error: device-side assert triggered")

    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr("fedvemoe_app.flower.silo.answers._phase", None)
    InProcessGrid(app, {}, 1)  # so that messages have an origin
    packed = [by_worker._packed(x) for x in (Message(RecordDict(), 1, "query"), context_of(node))]
    if sound:
        reply = MessageProto.FromString(by_worker.answered([b"hello", *packed])[0])
        assert reply.error.code == BROKEN
    else:
        with pytest.raises(SystemExit, match="GPU"):
            by_worker.answered([b"hello", *packed])


@pytest.mark.slow
def test_a_run_with_workers_is_the_run_without(
    settings: Callable[..., Settings], node: dict[str, Value]
) -> None:
    def wanting(grid: InProcessGrid) -> None:
        for context in grid.contexts.values():
            context.node_config |= {"worker": True, "worker-folder": node["worker-folder"]}

    chosen = {**settings(privacy="secagg"), "num-server-rounds": 1}
    ours = federate({**chosen, "run-name": "with"}, prepare=wanting)
    assert len(workers(node["worker-folder"])) == SILOS
    theirs = federate({**chosen, "run-name": "without"})
    assert without_seconds(ours) == without_seconds(theirs)
    assert ours.events == theirs.events
