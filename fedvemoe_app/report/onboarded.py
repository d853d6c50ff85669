"""The table of ``fedvemoe onboard``: every expert, the mixture and the base, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def render(found: Mapping[str, Any], console: Console) -> None:
    """Print an onboarding as ``Onboarding.to_json`` returns it."""
    table = Table(title=Text(f"{', '.join(found['tasks'])}"), title_justify="left")
    table.add_column("prediction by")
    for heading in ("weight", "probe nats", "test ppl", "ROUGE-L", "exact match"):
        table.add_column(heading, justify="right")
    for line in found["predictions"]:
        name = f"expert {line['name']}" if line["name"].isdigit() else line["name"]
        table.add_row(
            name,
            _number(line["weight"], 3),
            _number(line["probe_nats"], 3),
            _number(line["test_ppl"], 2),
            _number(line["rouge_l"], 1),
            _number(line["exact_match"], 1),
        )
    console.print(table)
    lines = [*found["verdict"], f"mixture {found['mixture']}, share {found['share']:g}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
