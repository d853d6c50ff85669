"""The ServerApp: settings in, strategy, run, results. Thin."""

from __future__ import annotations

import time

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedvemoe_app.config import RunConfig

app = ServerApp()

WARM_UP = "query.warm_up"
POLL_SECONDS = 0.1


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, then run; an exception ends the run as failed."""
    config = RunConfig.from_flat(context.run_config)
    asked = set() if config.output.roster else warm_up(grid)
    from fedvemoe_app.flower.server.run import run

    await_warm(grid, asked, config.rounds.phase_timeout)
    run(grid, config)


def warm_up(grid: Grid) -> set[str]:
    """Have a simulation's processes import torch and the rest now, while this one does the same.

    Returns the ids of the messages.
    """
    messages = [Message(RecordDict(), node, WARM_UP) for node in grid.get_node_ids()]
    return set(grid.push_messages(messages))


def await_warm(grid: Grid, asked: set[str], seconds: float) -> None:
    """Wait until all have replied, be it with an error, which the first phase will repeat.

    A reply that came during a phase would undo what the silo remembers of it.
    """
    late = time.monotonic() + seconds
    while asked and time.monotonic() < late:
        asked -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(asked)}
        time.sleep(POLL_SECONDS if asked else 0.0)
