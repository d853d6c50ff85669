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

from flwr.app import Context, Message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.silo.answers import answer, or_error
from fedvemoe_app.flower.silo.node import NodeConfig, NodeSettings
from fedvemoe_app.worker.door import Door, door_of
from fedvemoe_app.worker.place import Owner
from fedvemoe_app.worker.resident import Service

HANDLER = f"{__name__}:answered"


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


def has_worker(config: NodeConfig) -> bool:
    """Whether messages go to a worker: by default a deployed silo's.

    The processes of a simulation are resident themselves.

    Raises
    ------
    SettingError
        Where the node config is wrong, in any of its keys.
    """
    return NodeSettings.of(config).worker and ("worker" in config or "identity-key" in config)


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
    node = NodeSettings.of(context.node_config)
    service = Service(HANDLER, _terms(context), node.worker_idle)
    name = str(node.partition_id)
    return door_of(service, Owner.of(os.getppid()), name, node.worker_folder)


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
