"""A Grid that returns one reply: the sum. Strategies behind it never see a silo's numbers.

This is the plain form (``privacy = none``): it adds float vectors in the order of the silos'
names, so that the result does not depend on who answered first. Whatever hides the summands
takes its place behind the same door.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.wire import (
    get_facts,
    get_tensors,
    put_facts,
    put_tensors,
    size_in_bytes,
)

Replied = Callable[[str, int, int], None]
"""Called with a silo's name, how many have answered, and how many were asked."""

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Tally:
    """How one exchange went: who failed and why, what it moved and how long it took.

    ``reports`` holds what silos say of themselves, by name (full reporting only).
    """

    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, reply: Message) -> Self:
        """Return the tally of the one reply that a summing grid gave."""
        return cls(**get_facts(reply.content, "tally"))


def sums_of(reply: Message) -> dict[str, Tensor]:
    """Return the sums, float64, in the one reply that a summing grid gave."""
    return get_tensors(reply.content, "sums")


class SummingGrid(Grid):
    """Sends one message to each silo and answers with one reply: sums and a tally.

    A silo that replies with an error, with numbers that are not finite, or not at all within
    the timeout is listed among the failures and is no part of the sums.

    Parameters
    ----------
    grid
        Flower's grid, which carries the messages.
    names
        Silo name by node id; sums are formed in the order of the names.
    replied
        Called after each reply, for progress.

    """

    def __init__(
        self, grid: Grid, names: Mapping[int, str], *, replied: Replied | None = None
    ) -> None:
        self._grid = grid
        self._names = names
        self._replied = replied or (lambda name, done, asked: None)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send the messages, wait for the replies, and return their sum as one reply."""
        started = time.monotonic()
        sent = {self._names[message.metadata.dst_node_id]: message for message in messages}
        replies = self._collect(sent, timeout)
        sums, reports, failures, bytes_up = _added(sorted(sent), replies)
        tally = Tally(
            answered=len(sent) - len(failures),
            failures=failures,
            reports=reports,
            bytes_down=sum(size_in_bytes(message.content) for message in sent.values()),
            bytes_up=bytes_up,
            seconds=time.monotonic() - started,
        )
        content = RecordDict()
        put_tensors(content, "sums", sums)
        put_facts(content, "tally", asdict(tally))
        return [Message(content, reply_to=message) for message in list(sent.values())[:1]]

    def _collect(self, sent: Mapping[str, Message], timeout: float | None) -> dict[str, Message]:
        """Return the replies by silo, matched by what they answer: errors carry no sender."""
        ids = list(self._grid.push_messages(list(sent.values())))
        if len(ids) != len(sent):
            raise RunError("SuperLink refused the messages: they are too large for it")
        names = {message_id: name for message_id, name in zip(ids, sent, strict=True) if message_id}
        asked = len(names)
        replies: dict[str, Message] = {}
        deadline = time.monotonic() + timeout if timeout else float("inf")
        while names and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(names)):
                name = names.pop(reply.metadata.reply_to_message_id)
                replies[name] = reply
                self._replied(name, len(replies), asked)
            time.sleep(POLL_SECONDS if names else 0.0)
        return replies

    def set_run(self, run: Run) -> None:
        """Set the run (passed on)."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run (passed on)."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (passed on)."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids (passed on)."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes (passed on)."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages (passed on)."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies (passed on)."""
        return self._grid.pull_messages(message_ids)


def _added(
    names: list[str], replies: Mapping[str, Message]
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str], int]:
    """Return sums, reports, failures and bytes of the replies, taken in the order of ``names``."""
    sums: dict[str, Tensor] = {}
    reports: dict[str, Any] = {}
    failures: dict[str, str] = {}
    bytes_up = 0
    for name in names:
        try:
            content = _content(replies.get(name))
            report = get_facts(content, "report") if "report" in content else None
            _add(sums, get_tensors(content, "sums"))
        except RunError as error:
            failures[name] = str(error)
            continue
        if report is not None:
            reports[name] = report
        bytes_up += size_in_bytes(content)
    return sums, reports, failures, bytes_up


def _content(reply: Message | None) -> RecordDict:
    if reply is None:
        raise RunError("no answer in time")
    if reply.has_error():
        raise RunError(reply.error.reason or f"error {reply.error.code}")
    return reply.content


def _add(sums: dict[str, Tensor], summand: Mapping[str, Tensor]) -> None:
    """Add in place; a summand of other names or shapes, or not finite, is refused whole."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in summand.values()):
        raise RunError("its numbers are not finite")
    shapes = {key: tensor.shape for key, tensor in summand.items()}
    if sums and shapes != {key: tensor.shape for key, tensor in sums.items()}:
        raise RunError("its sums have other names or shapes than those of other silos")
    for key, tensor in summand.items():
        sums[key] = sums[key] + tensor.double() if key in sums else tensor.double()
