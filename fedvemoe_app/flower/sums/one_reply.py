"""The door between strategy and silos: one message to each, *one* reply, the sum.

A strategy behind such a grid never sees a silo's numbers. ``SummingGrid`` adds plain vectors,
``SecureGrid`` adds words that hide the summands from the server as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from fedvemoe_app.config_groups.rounds import RoundSettings
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts, put_tensors
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.flower.sums.exchange import Answer, Exchange, Replied

MESSAGE_MB = RoundSettings().message_mb


MOST_TALLY = 2**30
"""Characters of a tally: it is the server's own, and holds the reports of all silos."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How one sum came about: who failed and why, what it moved and how long it took.

    ``reports`` holds what silos say of themselves, by name (full reporting only). ``void`` says
    why there is no sum at all, where the protocol gave it up; it is ``final`` where silos would not
    give it if asked again. ``epsilon`` is what the run has spent so far, where sums are noised.
    """

    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    void: str = ""
    final: bool = False
    epsilon: float | None = None

    @classmethod
    def of(cls, reply: Message) -> Self:
        """Return the tally in the one reply."""
        return cls(**get_facts(reply.content, "tally", MOST_TALLY))


def sums_of(reply: Message) -> dict[str, Tensor]:
    """Return the sums, float64, in the one reply."""
    return get_tensors(reply.content, "sums")


class OneReplyGrid(Grid):
    """Sends one message to each silo and answers with one reply: sums and a tally.

    Parameters
    ----------
    grid
        Flower's grid, which carries the messages.
    names
        Silo name by node id.
    message_mb
        Megabytes of arrays that one message may carry; more go in parts.
    replied
        Called after each reply, for progress.

    """

    def __init__(
        self,
        grid: Grid,
        names: Mapping[int, str],
        *,
        message_mb: float = MESSAGE_MB,
        replied: Replied | None = None,
    ) -> None:
        self._grid = grid
        self._names = names
        self.sums = 0  # formed in this run, where they are numbered
        self._exchange = Exchange(grid, message_mb, replied or (lambda name, done, asked: None))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send the messages, wait for the replies, and return their sum as one reply."""
        sent = {self._names[message.metadata.dst_node_id]: message for message in messages}
        sums, tally = self.sum(sent, timeout)
        content = RecordDict()
        put_tensors(content, "sums", sums)
        put_facts(content, "tally", asdict(tally))
        return [Message(content, reply_to=message) for message in list(sent.values())[:1]]

    @abstractmethod
    def sum(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], Tally]:
        """Exchange these messages, by silo, for the sums of the replies."""

    def state(self) -> State:
        """Return what the sums to come depend on."""
        return State({}, {"sums": self.sums})

    def restore(self, state: State) -> None:
        """Go on from there."""
        self.sums = int(state.facts["sums"])

    def collect(
        self, sent: Mapping[str, Message], timeout: float | None, most: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """Yield every silo once, as they answer: the content of its reply, or why there is none.

        ``most`` is the bytes of arrays that a reply may have.
        """
        return self._exchange.ask(sent, timeout, most)

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


def content_of(answer: Answer) -> RecordDict:
    """Return what a silo's reply holds; RunError with the reason where there is none."""
    if isinstance(answer, RunError):
        raise answer
    return answer
