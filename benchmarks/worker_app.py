"""The app of ``benchmarks.worker``: one exchange after another with each silo, timed by the server.

It is laid out inside a copy of the package. The door imports what the real one does, and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedvemoe_app.client_app import app
from fedvemoe_app.config import RunConfig

server = ServerApp()
client = app
WITH, WITHOUT = "worker", "no worker"


@client.query("trivial")
def trivial(message: Message, context: Context) -> Message:
    """Do nothing: what is left is Flower's own time."""
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Write the seconds of every exchange, one JSON line each, to ``out-json``."""
    from fedvemoe_app.flower.server.consortium import wait_for_nodes

    config = RunConfig.from_flat(context.run_config)
    nodes = wait_for_nodes(grid, 2, config.rounds.phase_timeout)
    content, trivial_content = _assessment(config), RecordDict()
    silos = {_who(grid, node, config): node for node in nodes}
    for cycle in range(config.rounds.num_server_rounds):
        for silo, kind in (
            (WITH, "query.trivial"),
            (WITH, "evaluate"),
            (WITHOUT, "query.trivial"),
            (WITHOUT, "evaluate"),
        ):
            sent = content if kind == "evaluate" else trivial_content
            seconds = _exchange(grid, Message(sent, silos[silo], kind))[1]
            row = {"cycle": cycle, "silo": silo, "kind": kind, "seconds": seconds}
            with Path(config.method.out_json).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _who(grid: Grid, node: int, config: RunConfig) -> str:
    """Introduce the server to a silo, as a run does; the first of them has a worker."""
    from fedvemoe_app.flower.code import code_hash
    from fedvemoe_app.flower.messages.wire import get_facts, put_facts
    from fedvemoe_app.flower.server.run import lay_out

    content = RecordDict()
    base = lay_out(config).backbone.fingerprint
    put_facts(content, "hello", {"base": base, "code": code_hash()})
    reply, _ = _exchange(grid, Message(content, node, "query.hello"))
    name = get_facts(reply.content, "report")["name"]
    return WITH if name == "silo-00" else WITHOUT


def _assessment(config: RunConfig) -> RecordDict:
    """Return the message of a phase that probes one expert: a bank, and little to do with it."""
    from fedvemoe_app.em.state import Bank
    from fedvemoe_app.flower.messages.wire import put_bank, put_facts
    from fedvemoe_app.flower.server.run import lay_out

    content = RecordDict()
    put_bank(content, Bank.start(lay_out(config).initial(config.output.seed), alive=1))
    order = {"round": 0, "draw": False, "next": [], "evaluate": False, "tasks": {}}
    put_facts(content, "order", order)
    return content


def _exchange(grid: Grid, message: Message) -> tuple[Message, float]:
    """Return the reply and how long it took to come; the error of one that failed is raised."""
    start = time.perf_counter()
    ids = set(grid.push_messages([message]))
    replies: list[Message] = []
    while not replies:
        time.sleep(0.1)
        pulled: Iterable[Message] = grid.pull_messages(ids)
        replies = list(pulled)
    if replies[0].has_error():
        raise RuntimeError(replies[0].error.reason)
    return replies[0], time.perf_counter() - start
