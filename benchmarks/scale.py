"""What more silos cost the server: processor time, memory and bytes of secure rounds.

``python -m benchmarks.scale [--json FILE] [--silos 5 --silos 20 ...] [--rounds R] [k=v ...]``

The server is the real one, strategy and secure sums, alone in a process; silos are real ClientApps
in another (``scale_silos``), whose numbers are made up. Memory is what the server's process takes
at its peak beyond what it had before the first message. Masks cost a silo time that grows with
its peers; a server holds one sum, whatever the number of silos.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from unittest.mock import patch

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.scale_silos import distant, process_seconds
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import FedVemoeError, RunError
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.overrides import gather
from fedvemoe_app.report.journal import read_run
from fedvemoe_app.report.manifest import manifest

SILOS = (5, 20, 50, 100)
MB = 1e6
FIXED: dict[str, bool | int | float | str] = {
    "start": "none",
    "private-slot": "off",
    "lifecycle": False,
    "trackers": "none",
    "eval-every": 10**6,
    "privacy": "secagg",
    "reporting": "aggregate",
    "c-min": 3,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """One run. Seconds are processor time of a round; ``payload`` one silo's upload of a round."""

    silos: int
    server_seconds: float
    silo_seconds: float
    peak_mb: float
    payload_mb: float
    up_mb: float
    down_mb: float


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    silos: Annotated[list[int] | None, typer.Option(help="Numbers of silos.", min=3)] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each run.", min=1)] = 3,
) -> None:
    """Measure runs of several sizes, each in a process of its own."""
    console = Console()
    words = settings or []
    try:
        RunConfig.from_flat({**gather(RunConfig, None, words), **FIXED})
        costs = [apart(count, rounds, words) for count in silos or SILOS]
    except FedVemoeError as error:
        console.print(f"[bold red]error:[/bold red] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None
    console.print(table(costs))
    if json_file:
        rows = [asdict(cost) for cost in costs]
        result = manifest({"settings": words, "rounds": rounds, "costs": rows})
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")


def apart(silos: int, rounds: int, words: list[str]) -> Cost:
    """Measure a run in a fresh process: a peak of memory never falls."""
    command = [sys.executable, "-m", "benchmarks.scale_one", str(silos), str(rounds), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{silos} silos: {done.stderr.strip()[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def measured(silos: int, rounds: int, words: list[str]) -> Cost:
    """Run a federation here and return what it cost."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        own = {"num-server-rounds": rounds, "log-dir": folder, "run-name": "scale"}
        flat = RunConfig.from_flat({**gather(RunConfig, None, words), **FIXED, **own}).to_flat()
        with distant(flat, silos) as grid, Spent(grid.spent) as spent, without_pictures():
            grid.begin = spent.begin
            run(grid, RunConfig.from_flat(flat))
        rows = read_run(Path(folder) / "scale").rounds
    up, down = rows[-1]["bytes_up"] / MB, rows[-1]["bytes_down"] / MB
    seconds = spent.seconds / rounds, spent.elsewhere / rounds / silos
    return Cost(silos, *seconds, spent.peak_mb, up / silos, up, down)


@contextmanager
def without_pictures() -> Iterator[None]:
    """Leave out what a run draws at its end."""
    place = "fedvemoe_app.flower.server.run."
    with patch(f"{place}draw_all"), patch(f"{place}write_page"):
        yield


class Spent:
    """Processor time, and the most memory beyond what there was, of this process from ``begin``.

    ``elsewhere`` is the processor time of the silos' process, which ``theirs`` tells.
    """

    def __init__(self, theirs: Callable[[], float]) -> None:
        self._theirs = theirs

    def __enter__(self) -> Spent:
        self._process, self._on = psutil.Process(), True
        self.seconds = self.peak_mb = self.elsewhere = 0.0
        self._began = process_seconds()
        self._watch = threading.Thread(target=self._look, daemon=True)
        return self

    def begin(self) -> None:
        """Start to count."""
        self.elsewhere = -self._theirs()
        self._began, self._before = process_seconds(), self._process.memory_info().rss
        self._watch.start()

    def _look(self) -> None:
        while self._on:
            taken = self._process.memory_info().rss - self._before
            self.peak_mb = max(self.peak_mb, taken / MB)
            time.sleep(0.005)

    def __exit__(self, *error: object) -> None:
        self._on = False
        self.seconds = process_seconds() - self._began
        self.elsewhere += self._theirs()


def table(costs: list[Cost]) -> Table:
    """Return the costs as a table."""
    made = Table(title="A secure round, by number of silos")
    for head in (
        "silos",
        "server, s",
        "a silo, s",
        "server's peak, MB",
        "silos x upload, MB",
        "up, MB",
        "down, MB",
    ):
        made.add_column(head, justify="right")
    for cost in costs:
        numbers = (cost.server_seconds, cost.silo_seconds)
        sizes = (cost.peak_mb, cost.silos * cost.payload_mb, cost.up_mb, cost.down_mb)
        made.add_row(str(cost.silos), *(f"{x:.2f}" for x in numbers), *(f"{x:.1f}" for x in sizes))
    return made


if __name__ == "__main__":
    typer.run(main)
