"""The ServerApp: settings in, strategy, run, results. Thin."""

from __future__ import annotations

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedvemoe_app.config import RunConfig

app = ServerApp()

WARM_UP = "query.warm_up"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, then run; an exception ends the run as failed."""
    config = RunConfig.from_flat(context.run_config)
    if not config.output.roster:
        warm_up(grid)
    from fedvemoe_app.flower.run import run

    run(grid, config)


def warm_up(grid: Grid) -> None:
    """Have a simulation's processes import torch and the rest now, while this one does the same.

    Nobody waits for the replies; a process that fails says why when it is asked for something.
    """
    messages = [Message(RecordDict(), node, WARM_UP) for node in grid.get_node_ids()]
    grid.push_messages(messages)
