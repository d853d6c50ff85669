"""Where the time of a simulation goes: how much of it is the silos' work.

``python -m benchmarks.overhead``: ``fedvemoe run`` as a user calls it, its stages by the run's own
``progress.jsonl``, and the processor time of the silos' processes. With ``--code FOLDER`` twice,
the package of two checkouts in turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fedvemoe_app.report.progress import Tail

ACTOR = "ClientAppActor"
ROOT = Path(__file__).parents[1]
START = "from fedvemoe_app.cli.main import app; app()"
STAGES = (
    "command: imports, checks",
    "Flower and server start",
    "hello: silos start, load the base",
    "phases: silos' work and its exchange",
    "server between phases",
    "pictures, page",
    "Flower ends, summary",
)
Seconds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spent:
    """Wall seconds of each stage, and processor seconds of the silos' processes after ``hello``."""

    stages: Seconds
    silos: float

    @property
    def wall(self) -> float:
        """Wall seconds of the whole command."""
        return sum(self.stages.values())

    @property
    def share(self) -> float:
        """Part of the wall time in which silos were at work."""
        return self.stages[STAGES[3]] / self.wall


def once(code: Path, silos: int, settings: Sequence[str]) -> Spent:
    """Run a simulation with the package of a checkout."""
    with tempfile.TemporaryDirectory(prefix="fedvemoe-") as folder:
        command = [sys.executable, "-P", "-c", START, "run", "--silos", str(silos), *settings]
        command += [f"log-dir={folder}", "run-name=run"]
        environment = {**os.environ, "PYTHONPATH": str(code)}
        log, progress = Path(folder) / "run.log", Path(folder) / "run" / "progress.jsonl"
        began = time.time()
        with subprocess.Popen(command, cwd=folder, env=environment) as process:
            checked, work = 0.0, _Work()
            while process.poll() is None:
                checked = checked or (time.time() if log.exists() else 0.0)
                work.look(progress)
                time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
        return Spent(_stages(began, checked, time.time(), Tail(progress).read()), work.after_hello)


class _Work:
    """Processor time of the silos' processes, as far as it is known."""

    def __init__(self) -> None:
        self._began = time.time()
        self._latest: dict[int, float] = {}
        self._greeted: float | None = None
        self._actors: list[psutil.Process] = []
        self._next = 0.0

    def look(self, progress: Path) -> None:
        """Read the clocks of all silos' processes; look for new ones now and then."""
        if time.monotonic() > self._next:
            self._next = time.monotonic() + 2
            self._actors = [one for one in psutil.process_iter() if self._is_actor(one)]
        for actor in self._actors:
            with suppress(psutil.Error):
                times = actor.cpu_times()
                self._latest[actor.pid] = times.user + times.system
        events = [event["event"] for event in Tail(progress).read()]
        if self._greeted is None and "phase_finished" in events:
            self._greeted = sum(self._latest.values())

    def _is_actor(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            started_here = process.create_time() > self._began
            return started_here and ACTOR in " ".join(process.cmdline())
        return False

    @property
    def after_hello(self) -> float:
        """Processor seconds since all silos had loaded the base."""
        return sum(self._latest.values()) - (self._greeted or 0.0)


def _stages(began: float, checked: float, ended: float, events: list[dict[str, Any]]) -> Seconds:
    """Return the seconds of each stage, in their order."""
    begins = [event["time"] for event in events if event["event"] == "phase"]
    ends = [event["time"] for event in events if event["event"] == "phase_finished"]
    drawing = next(e["time"] for e in events if "drawing" in str(e.get("text", "")))
    finished = next(e["time"] for e in events if e["event"] == "finished")
    phases = sum(end - begin for begin, end in zip(begins[1:], ends[1:], strict=True))
    seconds = (
        checked - began,
        begins[0] - checked,
        ends[0] - begins[0],
        phases,
        drawing - ends[0] - phases,
        finished - drawing,
        ended - finished,
    )
    return dict(zip(STAGES, seconds, strict=True))


def table(spent: Mapping[str, Sequence[Spent]]) -> Table:
    """Return the median seconds of each stage, for every checkout."""
    shown = Table(title="Seconds of a simulation (median)", box=box.SIMPLE_HEAD)
    shown.add_column("stage")
    for name in spent:
        shown.add_column(name, justify="right")
    for stage in STAGES:
        cells = (f"{median(run.stages[stage] for run in runs):.1f}" for runs in spent.values())
        shown.add_row(stage, *cells, end_section=stage == STAGES[-1])
    figures: dict[str, Callable[[Spent], str]] = {
        "whole command": lambda run: f"{run.wall:.1f}",
        "silos at work, share of it": lambda run: f"{run.share:.0%}",
        "processor seconds of silos' work": lambda run: f"{run.silos:.1f}",
    }
    for label, figure in figures.items():
        shown.add_row(label, *(figure(_middle(runs)) for runs in spent.values()))
    return shown


def _middle(runs: Sequence[Spent]) -> Spent:
    return sorted(runs, key=lambda run: run.wall)[len(runs) // 2]


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    code: Annotated[list[Path] | None, typer.Option(help="A checkout; this one if none.")] = None,
    silos: Annotated[int, typer.Option(min=2)] = 12,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Run each checkout in turns; print where the time went."""
    checkouts = [folder.absolute() for folder in code or [ROOT]]
    spent: dict[str, list[Spent]] = {folder.name: [] for folder in checkouts}
    for _ in range(repeats):
        for folder in checkouts:
            spent[folder.name].append(once(folder, silos, settings or []))
    Console().print(table(spent))


if __name__ == "__main__":
    typer.run(main)
