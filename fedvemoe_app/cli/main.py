"""The command line: ``fedvemoe ...``. Each command reads its arguments, calls one thing, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedvemoe_app import __version__
from fedvemoe_app.cli.commands import Commands, SettingsFile, Words, one_of
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.cli.consortium import consortium
from fedvemoe_app.cli.doctor import doctor
from fedvemoe_app.cli.experts import app as experts
from fedvemoe_app.cli.report import app as reports
from fedvemoe_app.cli.roster import app as roster
from fedvemoe_app.config import RunConfig
from fedvemoe_app.overrides import gather

TRAIN, DEPLOY = "Train", "Between machines"

app = Commands(
    TRAIN,
    help="Federated variational EM over a shared bank of LoRA experts.",
    epilog="Begin with: fedvemoe doctor; fedvemoe run; fedvemoe COMMAND --help shows examples.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
data = Commands(help="Look at task banks.", no_args_is_help=True)
base = Commands(help="Build base models.", no_args_is_help=True)

CpusPerSilo = Annotated[int, typer.Option(help="CPUs of one silo's process.", min=1)]
GpusPerSilo = Annotated[float, typer.Option(help="GPUs of one silo, may be 0.5.")]
Silos = Annotated[int, typer.Option(help="Number of silos.", min=1)]


def _version(asked: bool) -> None:
    if asked:
        print(f"fedvemoe {__version__}")
        raise typer.Exit


@app.callback(epilog=app.info.epilog)
def main(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Print the version."),
    ] = False,
) -> None:
    """Federated variational EM over a shared bank of LoRA experts."""


@app.command()
def run(
    settings: Words = None,
    run_config: SettingsFile = None,
    silos: Silos = 12,
    cpus_per_silo: CpusPerSilo = 1,
    gpus_per_silo: GpusPerSilo = 0.0,
) -> None:
    """Run a simulated federation, show its progress, and end with a summary and pictures.

    Examples: [bold]fedvemoe run[/bold] on the embedded tasks;
    [bold]fedvemoe run --silos 5 dataset-name=./tasks num-server-rounds=20[/bold] on a folder;
    [bold]fedvemoe run -c simulation.toml --silos 5 --gpus-per-silo 0.5[/bold] on a GPU.
    """
    console = Console()
    with readable_errors():
        config = RunConfig.from_flat(gather(RunConfig, run_config, settings or []))

        from fedvemoe_app.cli.launch import launch
        from fedvemoe_app.flower.programs.simulation import (
            Resources,  # slow: a wrong word is said before
        )

        launch(config, Resources(silos, cpus_per_silo, gpus_per_silo), console)


@app.command()
def resume(
    folder: Annotated[
        Path, typer.Argument(help="A run's folder, <log-dir>/<run name>.", metavar="RUN")
    ],
    settings: Words = None,
    cpus_per_silo: CpusPerSilo = 1,
    gpus_per_silo: GpusPerSilo = 0.0,
) -> None:
    """Continue an interrupted simulation from its last complete round.

    It ends as if it had never been interrupted. Settings are those of the run; more rounds may be
    asked for, even of a finished one.

    Examples: [bold]fedvemoe resume runs/exp1[/bold];
    [bold]fedvemoe resume runs/exp1 num-server-rounds=30[/bold] for more rounds.
    """
    from fedvemoe_app.cli.launch import relaunch
    from fedvemoe_app.flower.programs.simulation import Resources

    console = Console()
    with readable_errors():
        changes = gather(RunConfig, None, settings or [])
        relaunch(folder, changes, Resources(0, cpus_per_silo, gpus_per_silo), console)


@app.command("settings")
def settings_() -> None:
    """Print every setting with its default and meaning, as docs/configuration.md has it.

    Example: [bold]fedvemoe settings | grep k-[/bold]
    """
    from fedvemoe_app.cli.reference import settings_table

    print(settings_table(), end="")


@data.command()
def inspect(settings: Words = None, run_config: SettingsFile = None, silos: Silos = 12) -> None:
    """Show a bank's tasks, their lengths and matches, and which silo would hold which.

    Example: [bold]fedvemoe data inspect --silos 5 dataset-name=./tasks[/bold]
    """
    from fedvemoe_app.data import inspect as inspection
    from fedvemoe_app.data.holdings import assignment_of, bank_of

    console = Console()
    with readable_errors():
        config = RunConfig.from_flat(gather(RunConfig, run_config, settings or []))
        seed = config.output.seed
        bank = bank_of(config.data, seed)
        assignment = assignment_of(config.data, seed, silos)
        inspection.render(inspection.report(bank, assignment), console)


@base.command()
def build(
    bank: Annotated[
        str, typer.Option(help="Task folder, hub name, or builtin:tasks.")
    ] = "builtin:tasks",
    size: Annotated[
        str, typer.Option(help="tiny or small.", autocompletion=one_of("tiny", "small"))
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.", min=0)] = 0,
) -> None:
    """Build a small base model and tokenizer from a bank's tasks, and print where it lies.

    Example: [bold]fedvemoe base build --bank ./tasks --size tiny[/bold]
    """
    from fedvemoe_app.cli.launch import build_from_bank

    console = Console()
    with readable_errors():
        folder = build_from_bank(bank, size, seed, console)
        console.print(
            f"base model: [bold]{folder}[/bold]\nuse it with: model-name={folder}", soft_wrap=True
        )


app.add_typer(data, name="data", rich_help_panel=TRAIN)
app.add_typer(base, name="base", rich_help_panel=TRAIN)
app.add_typer(reports)
app.add_typer(experts)
app.command()(doctor)
app.command(rich_help_panel=DEPLOY)(consortium)
app.add_typer(roster, name="roster", rich_help_panel=DEPLOY)
