"""Secure sums without a model: real ClientApps send the numbers that a test gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors
from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Tamper
from fedvemoe_app.flower.sums.one_reply import OneReplyGrid, Tally, sums_of
from fedvemoe_app.flower.sums.plain import SummingGrid
from fedvemoe_app.flower.sums.secure import SecureGrid
from fedvemoe_app.secagg.roster import Roster
from fedvemoe_app.secagg.simulated import simulated_roster

SHAPES: dict[str, tuple[int, ...]] = {"count": (), "mass": (2,), "delta": (2, 40)}
TEMPLATE = Template(SHAPES, {"delta": [0.1, 0.1]})
Alter = Callable[[Message], Message | None]
"""Takes a message on its way to a silo; returns what arrives instead, None for the same."""


def numbers(seed: int) -> dict[str, Tensor]:
    """Return one silo's numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "count": torch.tensor(1.0, dtype=torch.float64),
        "mass": torch.rand(2, dtype=torch.float64, generator=generator),
        "delta": 0.1 * torch.randn(2, 40, generator=generator),
    }


class WatchedGrid(InProcessGrid):
    """Notes every message and reply; ``alter`` stands on the way of messages."""

    def __init__(self, silos: int, message_mb: float, *, tamper: Tamper | None = None) -> None:
        config = {"seed": 0, "reporting": "full", "message-mb": message_mb}
        super().__init__(client_app, config, silos, tamper=self._noted)
        self.next = tamper or (lambda message, reply: reply)
        self.alter: Alter = lambda message: None
        self.seen: list[tuple[Message, Message]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return super().push_messages([self.alter(message) or message for message in messages])

    def say(self, message: Message) -> Message:
        """Return what a silo answers to a message of the test's own."""
        (reply,) = self.pull_messages(super().push_messages([message]))
        return reply

    def _noted(self, message: Message, reply: Message) -> Message | None:
        self.seen.append((message, reply))
        return self.next(message, reply)

    def kinds(self) -> list[str]:
        """Return the kinds of all exchanges in their order."""
        kinds = [message.metadata.message_type.rpartition("_")[2] for message, _ in self.seen]
        return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]


class SmallSums:
    """A server and silos; ``values`` are the silos' numbers, by partition."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        silos: int = 4,
        *,
        privacy: str = "secagg",
        tamper: Tamper | None = None,
        confirm: bool = False,
        roster: Roster | None = None,
        message_mb: float = 32.0,
        bits: int = 32,
    ) -> None:
        self.values: dict[int, Mapping[str, Tensor]] = {i: numbers(i) for i in range(silos)}
        self.silos = WatchedGrid(silos, message_mb, tamper=tamper)
        self.names = {node: silo_name(node - 1) for node in self.silos.contexts}
        known = roster or simulated_roster(self.names.values(), 0)
        self.server: OneReplyGrid = (
            SummingGrid(self.silos, self.names, message_mb=message_mb)
            if privacy == "none"
            else SecureGrid(
                self.silos,
                self.names,
                known,
                masked=privacy == "secagg",
                bits=bits,
                confirm=confirm,
                message_mb=message_mb,
            )
        )
        self.models = 0

        def train(content: RecordDict, context: Context) -> RecordDict:
            reply = RecordDict()
            put_tensors(reply, "sums", self.values[int(context.node_config["partition-id"])])
            return reply

        patch.setattr("fedvemoe_app.flower.silo.phases.train", train)

    def message(self, node: int, template: Template | None = TEMPLATE) -> Message:
        """Return the message of the next sum to a node, without the protocol's part."""
        content = RecordDict()
        put_tensors(content, "held", {"model": torch.full((3,), float(self.models))})
        put_facts(content, "order", {"round": self.models})
        if template:
            template.put(content)
        return Message(content, node, "train")

    def sum(self, *nodes: int, same_model: bool = False) -> tuple[dict[str, Tensor], Tally]:
        """Ask these nodes (or all) for a sum on the next model."""
        self.models += not same_model
        messages = [self.message(node) for node in nodes or self.silos.contexts]
        (reply,) = self.server.send_and_receive(messages, timeout=10)
        return sums_of(reply), Tally.of(reply)

    def set_everywhere(self, **settings: str | int | bool) -> None:
        """Set the same in every silo's node config."""
        for context in self.silos.contexts.values():
            context.node_config.update({k.replace("_", "-"): v for k, v in settings.items()})


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sums are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
