"""A silo's messages answered by its resident worker, which keeps torch and the base in memory.

Flower starts a process for every message to a deployed silo. That process hands message and context
on, as the bytes that Flower itself would send, and takes reply and context back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping

from flwr.app import Context, Message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.silo.answers import answer, or_error
from fedvemoe_app.worker.door import Door, door_of
from fedvemoe_app.worker.place import Owner
from fedvemoe_app.worker.resident import Service

NodeConfig = Mapping[str, bool | int | float | str]
HANDLER = f"{__name__}:answered"
IDLE_SECONDS = 900
"""After so long without a message a worker gives its memory back."""


def reply_to(step: str, message: Message, context: Context) -> Message:
    """Return this silo's reply, from its worker where it has one; any failure is an error reply.

    A worker that has no safe place on this machine is done without, with a warning.
    """
    return or_error(lambda: _reply(step, message, context), message, context)


def _reply(step: str, message: Message, context: Context) -> Message:
    if not has_worker(context.node_config):
        return answer(step, message, context)
    try:
        door = door_to(context)
    except RunError as error:
        logging.getLogger("flwr").warning("this silo does without its worker: %s", error)
        return answer(step, message, context)
    reply, held = door.ask([step.encode(), _packed(message), _packed(context)])
    context.state = context_from_proto(ContextProto.FromString(held)).state
    return message_from_proto(MessageProto.FromString(reply))


def has_worker(node: NodeConfig) -> bool:
    """Whether messages go to a worker: by default a deployed silo's.

    The processes of a simulation are resident themselves.

    Raises
    ------
    SettingError
        Where the node config's ``worker`` is neither true nor false.
    """
    chosen = node.get("worker", "identity-key" in node)
    if not isinstance(chosen, bool):
        raise SettingError(f"worker = {chosen!r} in the node config: set true or false")
    return chosen


def idle_seconds(node: NodeConfig) -> float:
    """Return after how long without a message a silo's worker ends.

    Raises
    ------
    SettingError
        Where the node config's ``worker-idle`` is no number of seconds.
    """
    idle = node.get("worker-idle", IDLE_SECONDS)
    if isinstance(idle, str | bool) or idle <= 0:
        raise SettingError(f"worker-idle = {idle!r} in the node config: set seconds above 0")
    return float(idle)


def folder_of(node: NodeConfig) -> str:
    """Return where a silo wants its worker's socket; "" where it leaves that to the system."""
    return str(node.get("worker-folder", ""))


def door_to(context: Context) -> Door:
    """Return the door to a silo's worker, which belongs to the process that started this one.

    That is Flower's SuperExec, which ends with its SuperNode.

    Raises
    ------
    RunError
        Where the worker has no safe place on this machine.
    SettingError
        Where the node config is wrong about it.
    """
    node = context.node_config
    service = Service(HANDLER, _terms(context), idle_seconds(node))
    name = str(node.get("partition-id", ""))
    return door_of(service, Owner.of(os.getppid()), name, folder_of(node))


def _terms(context: Context) -> str:
    """Return what a worker was started for: this code, run, settings and node config."""
    told = [code_hash(), context.run_id, context.run_config, context.node_config]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def answered(parts: list[bytes]) -> list[bytes]:
    """Answer in the worker: step, message and context in; reply and context out."""
    step, asked, held = parts
    message = message_from_proto(MessageProto.FromString(asked))
    context = context_from_proto(ContextProto.FromString(held))
    reply = answer(step.decode(), message, context)
    if reply.has_error() and not _gpu_is_sound():
        raise SystemExit("the GPU of this process fails every call from now on")
    return [_packed(reply), _packed(context)]


def _gpu_is_sound() -> bool:
    """Whether CUDA still answers; after some errors it never does again in the same process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _packed(what: Message | Context) -> bytes:
    proto = message_to_proto(what) if isinstance(what, Message) else context_to_proto(what)
    return bytes(proto.SerializeToString())
