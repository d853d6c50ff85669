"""Silos in a process of their own: the server's processor time and memory can be told apart.

Each is the real ClientApp with its own keys, masks and memory; only what a model would say is made
up: numbers of the asked shapes, drawn at random. A grid in the server's process speaks with them
over a pipe, in Flower's own messages.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from torch import Tensor

from fedvemoe_app.client_app import app
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_facts, put_facts, put_tensors
from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Settings
from fedvemoe_app.flower.silo import phases

PUSH, PULL, SPENT, END = b"push", b"pull", b"spent", b"end"


class DistantGrid(InProcessGrid):
    """Sends every message to another process, and fetches replies from there one by one."""

    def __init__(self, settings: Settings, silos: int, pipe: Connection) -> None:
        super().__init__(app, settings, silos)
        self._pipe = pipe
        self.begin: Callable[[], object] = lambda: None

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand the messages over; here nothing is kept of them. ``begin`` is called beforehand."""
        if not self._pushed:
            self.begin()
        ids = []
        for message in messages:
            self._pushed += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._pushed}"
            self._pipe.send_bytes(PUSH)
            self._pipe.send_bytes(message_to_proto(message).SerializeToString())
            ids.append(f"message-{self._pushed}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let these be answered there, one after another."""
        replies = []
        for id_ in message_ids:
            self._pipe.send_bytes(PULL)
            self._pipe.send_bytes(id_.encode())
            replies.append(_message(self._pipe.recv_bytes()))
        return replies

    def spent(self) -> float:
        """Return the seconds of processor time that all silos took so far."""
        self._pipe.send_bytes(SPENT)
        return float(self._pipe.recv_bytes())


@contextmanager
def distant(settings: Settings, silos: int) -> Iterator[DistantGrid]:
    """Start the silos' process; yield the grid that leads there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, dict(settings), silos), daemon=True)
    process.start()
    try:
        yield DistantGrid(settings, silos, here)
        here.send_bytes(END)
    finally:
        process.join(10)
        process.terminate()


def serve(pipe: Connection, settings: dict[str, Any], silos: int) -> None:
    """Answer messages until told to end."""
    torch.set_num_threads(1)
    _without_models()
    answering = InProcessGrid(app, settings, silos)
    waiting: dict[str, bytes] = {}
    while (what := pipe.recv_bytes()) != END:
        if what == SPENT:
            pipe.send_bytes(str(process_seconds()).encode())
            continue
        data = pipe.recv_bytes()
        if what == PUSH:
            waiting[_message(data).metadata.message_id] = data
        else:
            reply = answering._answer(_message(waiting.pop(data.decode())))
            pipe.send_bytes(message_to_proto(reply).SerializeToString())


def _without_models() -> None:
    """Let silos make their numbers up."""
    for name, phase in (("hello", _hello), ("assess", _numbers), ("train", _numbers)):
        setattr(phases, name, phase)


def _hello(content: RecordDict, context: Context) -> RecordDict:
    reply = RecordDict()
    put_tensors(reply, "sums", {})
    put_facts(reply, "report", {"name": silo_name(int(context.node_config["partition-id"]))})
    return reply


def _numbers(content: RecordDict, context: Context) -> RecordDict:
    """Return numbers of every shape that is asked for; counts are ones."""
    round_ = int(get_facts(content, "order")["round"])
    seed = 1000 * int(context.node_config["partition-id"]) + round_
    generator = torch.Generator().manual_seed(seed)
    reply = RecordDict()
    asked = Template.get(content)
    made = {name: _array(name, shape, generator) for name, shape in asked.shapes.items()}
    put_tensors(reply, "sums", made)
    return reply


def _array(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.startswith("delta/"):
        return 1e-3 * torch.randn(shape, generator=generator)
    if "histogram" in name or name in ("scores", "transfer"):
        return torch.zeros(shape, dtype=torch.float64)
    return torch.ones(shape, dtype=torch.float64)


def _message(data: bytes) -> Message:
    proto = ProtoMessage()
    proto.ParseFromString(data)
    return message_from_proto(proto)


def process_seconds() -> float:
    """Return this process's own processor time so far."""
    return time.process_time()
