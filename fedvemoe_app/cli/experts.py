"""``fedvemoe export | generate | onboard``: what people carry away from a run that has ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedvemoe_app.cli.commands import Commands, machine_settings_that_begin
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.config import RunConfig
from fedvemoe_app.overrides import gather

if TYPE_CHECKING:
    from fedvemoe_app.api import LoadedRun

app = Commands("Carry away")

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, <log-dir>/<name>.")]
Machine = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings of this machine as key=value: model-name (where the same base lies here), "
        "device, dtype, use-4bit, use-8bit, torch-threads, row-cap.",
        autocompletion=machine_settings_that_begin,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def export(
    run: Folder,
    output: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    merge: Annotated[
        int | None, typer.Option(help="Also write the base with this expert merged in.", min=0)
    ] = None,
    machine: Machine = None,
) -> None:
    """Write every expert as a PEFT adapter with a model card, and mixture.json.

    mixture.json holds the bank's prior and, where the run reported them, each silo's
    responsibilities over shared experts.

    Examples: [bold]fedvemoe export runs/one --output adapters[/bold];
    [bold]fedvemoe export runs/one --output adapters --merge 2[/bold]
    """
    console = Console()
    with _opened(run, machine) as loaded:
        folder = loaded.export(output, merge=merge)
        for written in sorted(folder.iterdir()):
            console.print(str(written), markup=False, highlight=False, soft_wrap=True)


@app.command()
def generate(
    run: Folder,
    machine: Machine = None,
    client: Annotated[
        str | None, typer.Option(help="The silo whose mixture answers, such as silo-00.")
    ] = None,
    mixture: Annotated[
        str | None, typer.Option(help="Weights by expert: 0=0.7,2=0.3; or base, without experts.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Switching probability between tokens, for --mixture.", min=0, max=1),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A question; may be given more than once.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Questions, one a line: text, or JSON with input and definition."),
    ] = None,
    definition: Annotated[
        str, typer.Option(help="The task's definition, put before each question as in training.")
    ] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; the run's setting by default.", min=1)
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write answers as they grow.")] = False,
    show_experts: Annotated[
        bool, typer.Option("--show-experts", help="Show which expert carried each token.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer questions with a silo's mixture of experts, or with weights of your own.

    Without --client and --mixture the bank's prior answers. Without --prompt and --file it asks
    for questions until an empty line. Only shared experts are in a run's folder: where a silo
    has a private expert too, the shared part of its mixture answers, renormalised.

    Examples: [bold]fedvemoe generate runs/one --client silo-00 --prompt "ash birch"[/bold];
    [bold]fedvemoe generate runs/one --mixture 0=0.7,2=0.3 --file questions.jsonl --json[/bold];
    [bold]fedvemoe generate runs/one --client silo-00 --stream --show-experts[/bold]
    """
    console = Console(soft_wrap=True)
    with _opened(run, machine) as loaded:
        from fedvemoe_app.cli.conversation import Asking, converse, read_questions

        asking = Asking.of(
            loaded,
            client=client,
            mixture=mixture,
            share=share,
            max_new_tokens=max_new_tokens,
            stream=stream,
            show_experts=show_experts,
            as_json=as_json,
        )
        questions = read_questions(prompt or [], file, definition)
        if questions is None:
            converse(asking, definition, console)
        else:
            asking.ask(questions, console)


@app.command()
def onboard(
    run: Folder,
    data: Annotated[str, typer.Option(help="The silo's tasks: a file, a folder, or a hub name.")],
    machine: Machine = None,
    regret: Annotated[
        bool, typer.Option(help="Train a copy of its best expert, to see what is missing.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say what the bank is worth to a silo that was not in the run; nothing is trained or kept.

    Shows the silo's weight of each expert, what it scores with the mixture and with the bare
    base, and whether a few local steps would bring so much more that no expert fits
    (--no-regret leaves that out).

    Example: [bold]fedvemoe onboard runs/one --data new-tasks/[/bold]
    """
    console = Console()
    with _opened(run, machine) as loaded:
        found = loaded.onboard(data, regret=regret)
        if as_json:
            from fedvemoe_app.report.jsonl import plain

            print(json.dumps(plain(found.to_json()), indent=2))
        else:
            from fedvemoe_app.report.onboarded import render

            render(found.to_json(), console)


@contextmanager
def _opened(folder: Path, machine: list[str] | None) -> Iterator[LoadedRun]:
    """Open a run for one command, its errors readable."""
    from transformers.utils.logging import disable_progress_bar

    from fedvemoe_app.api import load_run

    disable_progress_bar()
    with readable_errors():
        settings = gather(RunConfig, None, machine or [])
        with load_run(folder, **settings) as run:  # type: ignore[arg-type]
            yield run
