"""Everything that needs a GPU, in one call: the tests marked so, the benchmarks, one table.

``python -m benchmarks.gpu_check [--json FILE] [--dry-run] [--skip-tests]``

A dry run does the same on the CPU with a base of no size: it shows that the script works, and
nothing else. The goals in the table are those the project has set itself for a 7B base in 4 bits,
and for one in 8 bits that the loop is beaten. The loop has the same layers there, for bitsandbytes'
own product gives other numbers (``benchmarks.eight_bits``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from xml.etree import ElementTree

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.compute import Plan, measured

ROOT = Path(__file__).parents[1]
FULL: Mapping[str, Plan] = {
    "0.5b": Plan("0.5b", lengths=(128, 512), repeats=5),
    "7b": Plan(
        "7b",
        lengths=(512, 2048),
        probed=(12,),
        trained=(1, 2),
        sequences=1,
        batches=4,
        bits=4,
        repeats=3,
    ),
    "7b checkpointed": Plan(
        "7b",
        lengths=(2048,),
        probed=(),
        trained=(2,),
        answered=(),
        sequences=1,
        bits=4,
        checkpointed=True,
        repeats=3,
    ),
    "7b in 8 bits": Plan(
        "7b",
        lengths=(512,),
        probed=(12,),
        trained=(2,),
        answered=(2,),
        sequences=1,
        batches=4,
        bits=8,
        checkpointed=True,
        repeats=3,
    ),
}
DRY: Mapping[str, Plan] = {
    name: Plan(
        "nano",
        lengths=(16, 32),
        probed=(12,) if plan.probed else (),
        trained=(2,),
        answered=plan.answered,
        sequences=1,
        batches=1,
        new_tokens=2,
        bits=plan.bits,
        checkpointed=plan.checkpointed,
        repeats=1,
    )
    for name, plan in FULL.items()
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of a plan's result and the bound set for it; ``least`` or ``most``."""

    plan: str
    phase: str
    experts: int
    length: int
    figure: str
    least: float = 0.0
    most: float = float("inf")


GOALS = (
    Goal("7b", "probe", 12, 2048, "over floor", most=1.15),
    Goal("7b", "training", 2, 2048, "over floor", most=1.2),
    Goal("7b", "probe", 12, 2048, "speed-up", least=1.5),
    Goal("7b", "probe", 12, 512, "speed-up", least=1.9),
    Goal("7b checkpointed", "training", 2, 2048, "speed-up", least=2.0),
    Goal("7b", "generation", 2, 512, "speed-up", least=2.0),
    Goal("7b", "probe", 12, 2048, "memory", most=1.0),
    Goal("7b checkpointed", "training", 2, 2048, "memory", most=1.0),
    Goal("7b checkpointed", "training", 2, 2048, "over computed", least=0.7, most=1.1),
    Goal("7b in 8 bits", "probe", 12, 512, "speed-up", least=1.5),
    Goal("7b in 8 bits", "training", 2, 512, "speed-up", least=1.5),
    Goal("7b in 8 bits", "training", 2, 512, "memory", most=1.0),
)
"""Over floor: seconds over those of the products alone. Speed-up and memory: against the loop."""


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    dry_run: Annotated[bool, typer.Option(help="On the CPU, with a base of no size.")] = False,
    skip_tests: Annotated[bool, typer.Option(help="Benchmarks alone.")] = False,
) -> None:
    """Run all GPU-only tests and benchmarks; exit code 1 where a test fails or a goal is missed."""
    console = Console()
    if not dry_run and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here: --dry-run tries the script")
    found = checked(dry_run=dry_run, skip_tests=skip_tests, console=console)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    failed = found["tests"].get("failed", 0)
    missed = any(row["verdict"] == "missed" for row in found["goals"])
    if failed or (missed and not dry_run):
        raise typer.Exit(1)


def checked(*, dry_run: bool, skip_tests: bool, console: Console) -> dict[str, Any]:
    """Run all, print the tables, and return what was found."""
    device = torch.device("cpu" if dry_run else "cuda")
    tests = {} if skip_tests else gpu_tests(device)
    plans = DRY if dry_run else FULL
    results = {name: measured(plan, device, console) for name, plan in plans.items()}
    goals = list(_judged(results))
    console.print(_table(tests, goals))
    return {"dry_run": dry_run, "tests": tests, "goals": goals, "results": results}


def gpu_tests(device: torch.device) -> dict[str, int]:
    """Run the tests marked ``gpu`` on a device; return how many passed, failed and were skipped."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", f"--junitxml={report}"],
            cwd=ROOT,
            env={**os.environ, "GPU_TESTS_DEVICE": device.type},
            check=False,
        )
        suite = next(ElementTree.parse(report).iter("testsuite"))
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return {"passed": passed, "failed": failed, "skipped": count["skipped"]}


def _judged(results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for goal in GOALS:
        value = _figure(goal, results[goal.plan]["results"])
        met = value is not None and goal.least <= value <= goal.most
        yield {
            "what": f"{goal.plan}: {goal.phase} of {goal.experts}, {goal.length} tokens",
            "figure": goal.figure,
            "value": value,
            "goal": _words(goal),
            "verdict": "not run" if value is None else "met" if met else "missed",
        }


def _figure(goal: Goal, rows: Sequence[Mapping[str, Any]]) -> float | None:
    for row in rows:
        if (row["phase"], row["experts"], int(row["length"])) == (
            (goal.phase, goal.experts, goal.length)
        ):
            return _of(row, goal.figure)
    return None


def _of(row: Mapping[str, Any], figure: str) -> float | None:
    """Return a figure of a result; the first of the other ways is the loop."""
    loop = next(iter(row["others"]))
    ours, theirs = row["peak_bytes"]["ours"], row["peak_bytes"][loop]
    seconds = sorted(row["others"][loop]["seconds_ours"])
    match figure:
        case "over floor":
            return float(seconds[len(seconds) // 2] / row["floor_seconds"])
        case "speed-up":
            return float(row["others"][loop]["speed_up_median"])
        case "memory":
            return ours / theirs if theirs else None
        case _:
            return ours / row["computed"] if ours else None


def _words(goal: Goal) -> str:
    least = f"at least {goal.least}" if goal.least else ""
    most = f"at most {goal.most}" if goal.most != float("inf") else ""
    return " and ".join(part for part in (least, most) if part)


def _table(tests: Mapping[str, int], goals: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="GPU check", box=box.SIMPLE_HEAD)
    for heading in ("what", "figure", "value", "goal", ""):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    if tests:
        said = ", ".join(f"{number} {word}" for word, number in tests.items())
        table.add_row("tests", "", said, "none failed", "missed" if tests["failed"] else "met")
    for row in goals:
        value = "" if row["value"] is None else f"{row['value']:.2f}"
        table.add_row(row["what"], row["figure"], value, row["goal"], row["verdict"])
    return table


if __name__ == "__main__":
    typer.run(main)
