"""All strategies on the same silos, steps and seeds, and the open-world scenarios.

``python -m benchmarks.strategies STUDY ... [--seeds N] [--jobs J] [--output DIR]
[--bank TASKS --base MODEL] [--only LABEL ...] [--pictures DIR]`` with the studies of
``benchmarks.studies``. Every run is a process of its own and leaves an ordinary run folder,
``DIR/STUDY/LABEL-SEED``; a run that is there already is not made again. Tables:
``fedvemoe compare DIR/STUDY``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import habits, one_run
from benchmarks.outcomes import table
from benchmarks.studies import COMMON, STUDIES, Study, Value
from benchmarks.study_pictures import draw
from fedvemoe_app.report.style import save


@dataclass(frozen=True, slots=True)
class Job:
    """One run to make."""

    study: str
    label: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether the run has been made to its end."""
        return (self.folder / "summary.json").is_file()


def main(
    studies: Annotated[list[str], typer.Argument(help=f"Of: {', '.join(STUDIES)}.")],
    seeds: Annotated[int, typer.Option(help="Seeds; 0 takes the study's own number.")] = 0,
    jobs: Annotated[int, typer.Option(help="Runs at a time.", min=1)] = 2,
    output: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("runs/studies"),
    bank: Annotated[str, typer.Option(help="Task bank of the studies on real tasks.")] = "",
    base: Annotated[str, typer.Option(help="Base model of the studies on real tasks.")] = "",
    only: Annotated[list[str] | None, typer.Option(help="Labels to run.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for a picture of each.")] = None,
) -> None:
    """Run studies, and print a table for each."""
    console = Console(width=None if sys.stdout.isatty() else 120)  # tables are not cut in a log
    for name in studies:
        if name not in STUDIES:
            raise typer.BadParameter(f"{name} is none of {', '.join(STUDIES)}")
        if STUDIES[name].real_tasks and not (bank and base):
            raise typer.BadParameter(f"{name} needs --bank and --base")
    labels = {label for name in studies for label in STUDIES[name].variants}
    for label in only or []:
        if label not in labels:
            raise typer.BadParameter(f"--only {label}: choose of {'; '.join(sorted(labels))}")
    planned = [
        job
        for name in studies
        for job in _jobs(name, STUDIES[name], output, seeds, _real(STUDIES[name], bank, base))
        if not only or job.label in only
    ]
    _make([job for job in planned if not job.done], jobs, console)
    for name in studies:
        ended = [job for job in planned if job.study == name and job.done]
        runs = {(job.label, job.seed): job.folder for job in ended}
        console.print(table(name, runs))
        if pictures and runs:
            pictures.mkdir(parents=True, exist_ok=True)
            save(draw(runs, STUDIES[name].planted), pictures / f"{name}.png")


def _real(study: Study, bank: str, base: str) -> dict[str, Value]:
    return {"dataset-name": bank, "model-name": base} if study.real_tasks else {}


def _jobs(
    name: str, study: Study, output: Path, seeds: int, real: Mapping[str, Value]
) -> Iterator[Job]:
    for seed in range(seeds or study.seeds):
        folder = output / name / f"bank-{seed}"
        own = habits.write(folder, study.silos, seed) if study.habits else {}
        for label, settings in study.variants.items():
            run_name = f"{re.sub('[^a-z0-9]+', '-', label.lower())}-{seed}"
            words = {
                **COMMON,
                **study.settings,
                **own,
                **real,
                **settings,
                "seed": seed,
                "log-dir": str((output / name).absolute()),
                "run-name": run_name,
            }
            command = (
                *(sys.executable, "-m", "benchmarks.one_run", "--silos", str(study.silos)),
                *("--away", one_run.words(study.away)),
                *(f"{key}={_word(value)}" for key, value in words.items()),
            )
            yield Job(name, label, seed, output / name / run_name, command)


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _make(waiting: list[Job], jobs: int, console: Console) -> None:
    """Run the jobs, ``jobs`` at a time; one that fails is named and costs only itself."""
    total = len(waiting)
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while waiting or running:
        while waiting and len(running) < jobs:
            job = waiting.pop(0)
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            log = job.folder.with_suffix(".log").open("w")
            process = subprocess.Popen(job.command, stdout=log, stderr=log, env=environment)
            running.append((job, process, time.monotonic()))
        time.sleep(0.5)
        for entry in [entry for entry in running if entry[1].poll() is not None]:
            running.remove(entry)
            job, process, started = entry
            left = len(waiting) + len(running)
            state = "done" if process.returncode == 0 else "[red]FAILED[/red]"
            console.print(
                f"{total - left}/{total} {job.study}, {job.label}, seed {job.seed}: {state} "
                f"in {time.monotonic() - started:.0f} s",
                highlight=False,
            )


if __name__ == "__main__":
    typer.run(main)
