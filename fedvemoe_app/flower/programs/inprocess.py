"""A Grid in this process: the same app, messages and bytes, without SuperLink or Ray.

For tests, notebooks and debugging. Every message goes through Flower's serialisation both ways,
so what works here works over a network; silos answer one after another.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Settings = Mapping[str, bool | int | float | str]
Tamper = Callable[[Message, Message], Message | None]
"""Takes a message and its reply; returns what arrives instead, None for nothing."""


class InProcessGrid(Grid):
    """Calls the ClientApp for each message.

    Parameters
    ----------
    app
        The ClientApp.
    run_config
        The run configuration that silos see.
    silos
        How many there are; node ``i + 1`` is partition ``i``.
    tamper
        Stands on the way of every reply: for trying out lost, late and damaged ones.

    """

    def __init__(
        self, app: ClientApp, run_config: Settings, silos: int, *, tamper: Tamper | None = None
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
        self._app = app
        self._tamper = tamper or (lambda message, reply: reply)
        self._pushed = 0
        self._waiting: dict[str, Message] = {}
        self.contexts = {
            index + 1: Context(
                run_id=1,
                node_id=index + 1,
                node_config={"partition-id": index, "num-partitions": silos},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(silos)
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all silos."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages until their replies are pulled."""
        ids = []
        for message in messages:
            self._pushed += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._pushed}"
            self._waiting[f"message-{self._pushed}"] = _over_the_wire(message)
            ids.append(f"message-{self._pushed}")
        return ids

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message, self.contexts[message.metadata.dst_node_id])
        except Exception:
            reply = Message(Error(0, traceback.format_exc(limit=1)), reply_to=message)
        arrived = self._tamper(message, _over_the_wire(reply))
        return arrived or Message(Error(3, "the message's time ran out"), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the silos answer these messages, one after another, and return the replies."""
        asked = [self._waiting.pop(id_) for id_ in message_ids if id_ in self._waiting]
        return [self._answer(message) for message in asked]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(run_id=1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes."""
        return [NodeInfo(node_id=node) for node in self.contexts]


def _over_the_wire(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))
