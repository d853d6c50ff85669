"""``fedvemoe doctor``: is this machine ready, and if not, what is the fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedvemoe_app.cli.commands import SettingsFile, Words
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.config import RunConfig
from fedvemoe_app.doctor.finding import Finding
from fedvemoe_app.overrides import gather

SIGNS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failed": "[red]FAILED"}


def doctor(
    settings: Words = None,
    run_config: SettingsFile = None,
    node_config: Annotated[
        Path | None, typer.Option(help="A silo's node config: checks its keys, data and base.")
    ] = None,
    superlink: Annotated[str, typer.Option(help="HOST:PORT of a SuperLink that runs.")] = "",
    root_certificates: Annotated[
        Path | None, typer.Option(help="The authority that vouches for SuperLink.")
    ] = None,
) -> None:
    """Check this machine, the settings of a run, and a deployment's keys; say how to mend them.

    Exit code 1 if a check fails.

    Examples: [bold]fedvemoe doctor[/bold]; [bold]fedvemoe doctor -c simulation.toml[/bold];
    at a silo [bold]fedvemoe doctor --node-config /etc/fedvemoe/node.toml --superlink
    superlink.example.org:9092 --root-certificates /etc/fedvemoe/ca.crt[/bold]
    """
    console = Console()
    with readable_errors():
        config = RunConfig.from_flat(gather(RunConfig, run_config, settings or []))
        found = list(examine(config, node_config, superlink, root_certificates))
    console.print(_table(found))
    if any(finding.status == "failed" for finding in found):
        raise typer.Exit(1)


def examine(
    config: RunConfig, node_config: Path | None, superlink: str, root_certificates: Path | None
) -> Iterator[Finding]:
    """Make all checks that the arguments ask for, the cheap ones first."""
    from fedvemoe_app.doctor import environment, membership, resources
    from fedvemoe_app.doctor.memory import memory

    yield environment.python()
    yield from environment.packages()
    if superlink:
        yield membership.superlink(superlink, root_certificates)
    if config.output.roster:
        yield membership.roster(config.output.roster, config.output.consortium_key)
    if node_config:
        answer, node = membership.node_config(node_config)
        yield answer
        if node:
            yield membership.identity(node)
            answer, config = membership.premises(config, node)
            yield answer
            yield membership.state(node)
            yield membership.worker(node)
    yield environment.gpu(config.model)
    yield environment.quantisation(config.model)
    answer, base = resources.base(config.model)
    yield answer
    yield memory(config, base)
    yield resources.disk(config, base)
    yield resources.writable("log-dir", config.output.log_dir)
    if node_config or not config.output.roster:  # the server of a deployment has no data
        yield resources.tasks(config.data, config.output.seed)


def _table(found: list[Finding]) -> Table:
    table = Table(title="This machine", title_justify="left", title_style="bold")
    for name in ("", "found", "fix"):
        table.add_column(name, overflow="fold")
    for finding in found:
        table.add_row(SIGNS[finding.status], escape(finding.what), escape(finding.fix))
    return table
