"""``fedvemoe report | figure | compare | table``: what people look at, from the journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedvemoe_app.cli.commands import Commands, one_of
from fedvemoe_app.cli.console import readable_errors

app = Commands("Look at results")

RunFolder = Annotated[
    Path, typer.Argument(help="A run's folder, <log-dir>/<run name>.", metavar="RUN")
]


@app.command()
def report(folder: RunFolder) -> None:
    """Draw a run's pictures and its page anew and print its summary, from its journal alone.

    Example: [bold]fedvemoe report runs/exp1[/bold]
    """
    from fedvemoe_app.report.journal import read_run
    from fedvemoe_app.report.page import write_page
    from fedvemoe_app.report.plots import draw_all
    from fedvemoe_app.report.summary import print_summary

    console = Console()
    with readable_errors():
        found = read_run(folder)
        pictures = draw_all(found)
        print_summary(found, console, pictures, write_page(found, pictures))


@app.command()
def figure(
    folder: RunFolder,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the files; the run's plots/ by default.")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="pdf, svg, png, or several by comma.",
            autocompletion=one_of("pdf", "svg", "png"),
        ),
    ] = "pdf,svg,png",
    pictures: Annotated[
        str,
        typer.Option(
            "--picture",
            help="paper_figure, expert_utilization, worst_client, negative_transfer, several "
            "by comma, or all.",
        ),
    ] = "paper_figure",
) -> None:
    """Draw pictures of a run in print quality, as vectors and as pixels.

    Examples: [bold]fedvemoe figure runs/exp1 --output paper --format pdf[/bold];
    [bold]fedvemoe figure runs/exp1 --picture all --format svg[/bold]
    """
    from fedvemoe_app.report.journal import read_run
    from fedvemoe_app.report.plots import draw_print

    console = Console()
    with readable_errors():
        found = read_run(folder)
        paths = draw_print(
            found,
            output or folder / "plots",
            pictures=_listed(pictures),
            formats=_listed(formats),
        )
        for path in paths:
            console.print(str(path), soft_wrap=True, highlight=False, markup=False)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or a folder of them.", metavar="RUN...")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for Markdown, CSV and a picture.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Group that the others are held against; local if there.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare runs of different data all the same.")
    ] = False,
) -> None:
    """Put runs side by side: by strategy, with the spread over seeds, and against a reference.

    Example: [bold]fedvemoe compare runs/ --reference local --output comparison[/bold]
    """
    from fedvemoe_app.report.comparable import collect, require_comparable
    from fedvemoe_app.report.compare import compare as side_by_side
    from fedvemoe_app.report.compare_files import markdown, write

    console = Console()
    with readable_errors():
        runs = collect(folders)
        if not force:
            require_comparable(runs)
        found = side_by_side(runs, reference)
        print(markdown(found), end="")
        for path in write(found, output) if output else ():
            console.print(str(path), soft_wrap=True, highlight=False, markup=False)


@app.command()
def table(
    folder: RunFolder,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv, parquet or jsonl.",
            autocompletion=one_of("csv", "parquet", "jsonl"),
        ),
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the files; the run's tables/ by default.")
    ] = None,
) -> None:
    """Write a run's rounds, tasks, silos and events as flat tables for other programs.

    Example: [bold]fedvemoe table runs/exp1 --format parquet[/bold]
    """
    from fedvemoe_app.report.journal import read_run
    from fedvemoe_app.report.tables import write_tables

    console = Console()
    with readable_errors():
        for path in write_tables(read_run(folder), output or folder / "tables", kind):
            console.print(str(path), soft_wrap=True, highlight=False, markup=False)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
