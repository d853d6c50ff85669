"""The silos of a run as the server knows them: a name and a node each, and who is asked when."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedvemoe_app import seeds
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.messages.wire import put_facts
from fedvemoe_app.flower.sums.one_reply import Tally
from fedvemoe_app.flower.sums.plain import SummingGrid
from fedvemoe_app.secagg.spec import is_name


@dataclass(frozen=True, slots=True)
class Consortium:
    """The silos that take part, ``nodes`` by silo name."""

    nodes: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """The silos in the order in which everything is summed."""
        return sorted(self.nodes)

    def sample(self, fraction: float, seed: int, round_: int) -> list[str]:
        """Return the silos asked to train in a round: a seeded draw without replacement."""
        count = sample_size(fraction, len(self.nodes))
        drawn = seeds.stream(seed, "sample", round_).choice(self.names, count, replace=False)
        return sorted(drawn.tolist())

    def messages(
        self, silos: Iterable[str], kind: str, content: RecordDict, *, round_: int, ttl: float
    ) -> list[Message]:
        """Return one message of ``kind`` with the same content for each of ``silos``."""
        return [
            Message(content, self.nodes[silo], kind, ttl=ttl, group_id=str(round_))
            for silo in silos
        ]


def sample_size(fraction: float, silos: int) -> int:
    """Return how many of ``silos`` are asked to train in a round, rounded up."""
    return math.ceil(round(fraction * silos, 9))  # 0.55 * 20 is a little more than 11


def wait_for_nodes(grid: Grid, least: int, seconds: float, poll: float = 0.5) -> list[int]:
    """Return the connected nodes once there are ``least``; RunError when time runs out."""
    deadline = time.monotonic() + seconds
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= least:
            return nodes
        if time.monotonic() > deadline:
            raise RunError(
                f"{len(nodes)} silos connected within {seconds:.0f} s, but min-silos = {least}: "
                "start more SuperNodes (in a simulation: --silos), or lower min-silos"
            )
        time.sleep(poll)


def introduce(
    grid: Grid,
    nodes: Sequence[int],
    base: str,
    *,
    timeout: float,
    told: RecordDict | None = None,
) -> tuple[Consortium, Tally]:
    """Ask every node who it is; return the consortium, and how the exchange went.

    A silo with another base model or other code than the server's refuses and is left out. All are
    ``told`` the same.
    """
    content = told or RecordDict()
    put_facts(content, "hello", {"base": base, "code": code_hash()})
    unnamed = {node: f"node {node}" for node in nodes}
    summing = SummingGrid(grid, unnamed)
    asked = [Message(content, node, "query.hello", ttl=timeout) for node in nodes]
    (reply,) = summing.send_and_receive(asked, timeout=timeout)
    tally = Tally.of(reply)
    named = {node: _name(tally.reports.get(label)) for node, label in unnamed.items()}
    found = {name: node for node, name in named.items() if name}
    if len(found) < sum(map(bool, named.values())):
        raise RunError("two silos go by the same name: give each its own partition-id")
    nameless = {label for label in tally.reports if label not in map(unnamed.get, found.values())}
    failures = {**tally.failures, **dict.fromkeys(sorted(nameless), "it does not say its name")}
    return Consortium(found), replace(tally, answered=len(found), failures=failures)


def _name(report: object) -> str:
    """Return the name that a silo goes by; "" where its report holds none, or a strange one."""
    name = report.get("name") if isinstance(report, dict) else None
    return name if isinstance(name, str) and is_name(name) else ""


def require(tally: Tally, least: int, where: str) -> None:
    """Raise RunError, with every silo's reason, where fewer than ``least`` silos answered."""
    if tally.answered < least:
        reasons = "; ".join(f"{silo}: {why}" for silo, why in tally.failures.items())
        raise RunError(f"{where}: {tally.answered} silos answered, min-silos = {least}. {reasons}")
