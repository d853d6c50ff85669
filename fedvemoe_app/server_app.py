"""The ServerApp: settings in, strategy, run, results. Thin."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedvemoe_app.config import RunConfig

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, then run; an exception ends the run as failed."""
    config = RunConfig.from_flat(context.run_config)
    from fedvemoe_app.flower.run import run

    run(grid, config)
