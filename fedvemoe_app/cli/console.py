"""What all commands have in common: a mistake ends as one readable reason, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from fedvemoe_app.errors import FedVemoeError


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn an error meant for the user into one readable reason on stderr and exit code 1."""
    try:
        yield
    except FedVemoeError as error:
        said = f"[bold red]error:[/bold red] {escape(str(error))}"
        Console(stderr=True).print(said, soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None
