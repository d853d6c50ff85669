"""Small runs whose bank changes, and an ear on the way of every message and reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import Message
from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.flower.messages.wire import get_bank, get_facts, get_tensors
from fedvemoe_app.flower.programs.inprocess import Tamper
from fedvemoe_app.report.journal import Run
from tests.federation import Settings

QUICK: Settings = {
    "eval-every": 99,
    "generate-examples": 0,
    "eval-examples": 2,
    "quiet-rounds": 1,
    "cool-down": 1,
    "patience": 1,
    "lora-factors": "alternate",
}
ONE_EXPERT: Settings = {
    **QUICK,
    "k-init": 1,
    "warmup-rounds": 0,
    "regret-threshold": 0.0,
    "trial-rounds": 2,
    "local-steps": 6,
    "birth-worth": 0.02,
    "prune-worth": 0.01,
}
"""Silos of all houses share one expert: those that it cannot serve ask for a second in round 4."""
BIRTH = 4
TOO_MANY: Settings = {
    **QUICK,
    "k-init": 4,
    "k-max": 4,
    "start": "random",
    "warmup-rounds": 2,
    "keyword-categories": "translation,code",
    "regret-threshold": 1.0,
    "trial-rounds": 1,
}
"""Two houses and four experts, of which one is used by nobody by round 3: the bank is full."""

TOO_DEAR: Settings = {**TOO_MANY, "k-init": 2, "k-max": 2, "prune-worth": 9.0, "birth-worth": 9.0}
"""Two experts, both used, and one is due for being worth less than that: they merge in round 4."""


@dataclass
class Watch:
    """Notes what passes, and then does what ``tamper`` does."""

    tamper: Tamper = lambda message, reply: reply
    passed: list[tuple[Message, Message]] = field(default_factory=list)

    def __call__(self, message: Message, reply: Message) -> Message | None:
        self.passed.append((message, reply))
        return self.tamper(message, reply)

    def of(self, kind: str, round_: int) -> list[tuple[Message, Message]]:
        """Return the messages of a kind in a round, each with its reply."""
        return [pair for pair in self.passed if is_in(pair[0], kind, round_)]

    def bank(self, round_: int) -> Bank:
        """Return the living experts that were assessed in a round."""
        return get_bank(self.of("evaluate", round_)[0][0].content)

    def facts(self, kind: str, round_: int, record: str) -> Any:
        """Return a record of the first message of a kind in a round."""
        return get_facts(self.of(kind, round_)[0][0].content, record)

    def sums(self, kind: str, round_: int) -> list[dict[str, Tensor]]:
        """Return what each silo sent in the clear in a round."""
        return [get_tensors(reply.content, "sums") for _, reply in self.of(kind, round_)]


def is_in(message: Message, kind: str, round_: int) -> bool:
    """Return whether a message is of this kind and round."""
    return (message.metadata.message_type, message.metadata.group_id) == (kind, str(round_))


def losing(kind: str, round_: int, nodes: Sequence[int]) -> Tamper:
    """Lose the replies of these nodes in one phase of one round."""
    return lambda message, reply: (
        None if message.metadata.dst_node_id in nodes and is_in(message, kind, round_) else reply
    )


def losing_once(kind: str, round_: int, nodes: Sequence[int]) -> Tamper:
    """Lose the first reply of each of these nodes in one phase of one round."""
    left = set(nodes)

    def tamper(message: Message, reply: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if node in left and is_in(message, kind, round_):
            left.discard(node)
            return None
        return reply

    return tamper


def plain(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the rounds without seconds and bytes."""
    return [{**row, "seconds": 0, "bytes_up": 0, "bytes_down": 0} for row in run.rounds]


def structure(run: Run) -> list[tuple[int, str]]:
    """Return round and kind of every change of the bank."""
    silos = ("dropout", "void", "join", "leave", "below-c-min")
    return [(row["round"], row["event"]) for row in run.events if row["event"] not in silos]


def same(one: Bank, other: Bank) -> bool:
    """Return whether two banks hold the same experts, bit for bit."""
    return one.experts.keys() == other.experts.keys() and all(
        torch.equal(tensor, other.experts[name]) for name, tensor in one.experts.items()
    )
