"""``fedvemoe consortium``: a real deployment on loopback, from keys to a finished run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedvemoe_app.cli.commands import Words
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.overrides import gather
from fedvemoe_app.settings import Value

LEAST = 3
SHORT: dict[str, Value] = {
    "num-server-rounds": 2,
    "start": "none",
    "k-init": 2,
    "local-steps": 10,
    "eval-examples": 20,
    "generate-examples": 2,
    "torch-threads": 1,
    "phase-timeout": 600,
    "reporting": "aggregate",
}
"""A run of few exchanges: each starts a process at every silo, which takes longer than its work."""


def consortium(
    settings: Words = None,
    silos: Annotated[int, typer.Option(help="SuperNodes; 4 survive the loss of one.")] = 4,
    folder: Annotated[
        Path | None, typer.Option(help="New folder for keys, data, logs and the run.")
    ] = None,
) -> None:
    """Run a deployment on this machine: SuperLink, SuperNodes, TLS, authentication, masked sums.

    Settings that are not given are those of a short run.

    Every silo is a process with data and keys of its own. All of them are ended when the run is
    over, has failed, or is interrupted. Exit code 1 unless the run completed.

    Example: [bold]fedvemoe consortium --silos 3 num-server-rounds=3[/bold]
    """
    from fedvemoe_app.deploy.consortium import hold

    console = Console()
    with readable_errors():
        if silos < LEAST:
            raise SettingError(f"--silos {silos}: a secure sum needs at least {LEAST}")
        config = RunConfig.from_flat({**SHORT, **gather(RunConfig, None, settings or [])})
        place = folder or Path("runs") / f"consortium-{datetime.now():%Y%m%d-%H%M%S}"
        hold(config, silos, place, console)
