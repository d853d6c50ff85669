"""Stacked experts against plain PEFT on one frozen base: probe, training, generation.

``python -m benchmarks.compute [--size tiny ...] [--length 24 ...] [--bits 8] [--checkpointing]
[--gpu] [--repeats R] [--row-cap N] [--json FILE]``

Bases have random weights (``benchmarks.sizes``). PEFT's adapters are used in a loop, or named row
by row in one batch (``benchmarks.peft_loop``); all ways run in turns, and no ratio is printed
unless they give the same numbers. Beside them stand the arithmetic floor (``benchmarks.floor``) and
the memory that ``model.footprint`` computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import tables
from benchmarks.comparison import (
    Case,
    Result,
    compare,
    generation_case,
    probe_case,
    training_case,
)
from benchmarks.floor import Machine
from benchmarks.peft_loop import PeftLoop, Way
from benchmarks.sizes import SIZES, random_backbone
from benchmarks.timing import Clock
from benchmarks.workload import random_experts, workload
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import default_row_cap
from fedvemoe_app.model.footprint import Shape, Work, footprint
from fedvemoe_app.model.quantisation import Bits

ALPHA = 16.0
HELD = {0: "", 4: " NF4", 8: " int8"}
WAYS: tuple[Way, ...] = ("two passes", "one pass", "mixed batch")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured on one base."""

    size: str
    lengths: tuple[int, ...] = (24, 128)
    probed: tuple[int, ...] = (3, 6, 12)
    trained: tuple[int, ...] = (1, 2, 4)
    answered: tuple[int, ...] = (1, 2)
    rank: int = 8
    sequences: int = 8
    batches: int = 2
    new_tokens: int = 16
    bits: Bits = 0
    checkpointed: bool = False
    row_cap: int = 0
    repeats: int = 5

    @property
    def slots(self) -> int:
        """Experts that must be resident."""
        return max(1, *self.probed, *self.trained, *self.answered)


def main(
    size: Annotated[list[str] | None, typer.Option(help=f"Of: {', '.join(SIZES)}.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Tokens of a sequence.")] = None,
    bits: Annotated[int, typer.Option(help="Quantise the base to 4 or 8.")] = 0,
    checkpointing: Annotated[bool, typer.Option(help="Recompute activations.")] = False,
    gpu: Annotated[bool, typer.Option(help="On the first GPU, in bfloat16.")] = False,
    repeats: Annotated[int, typer.Option(help="Timings of each way.", min=1)] = 5,
    sequences: Annotated[int, typer.Option(help="Sequences of a batch.", min=1)] = 8,
    row_cap: Annotated[int, typer.Option(help="Token rows of a pass; 0 suits the device.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Measure probes, training and generation on bases with random weights."""
    console = Console()
    results = []
    for name in size or ["tiny", "small"]:
        plan = Plan(
            name,
            lengths=tuple(length or (24, 128)),
            bits=bits,  # type: ignore[arg-type]
            checkpointed=checkpointing,
            sequences=sequences,
            row_cap=row_cap,
            repeats=repeats,
        )
        results.append(measured(plan, torch.device("cuda" if gpu else "cpu"), console))
    if json_file:
        json_file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def measured(plan: Plan, device: torch.device, console: Console) -> dict[str, Any]:
    """Print a table and return its numbers; RunError if two ways disagree."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    ours, theirs = (
        random_backbone(plan.size, device, dtype, bits=plan.bits, checkpointed=plan.checkpointed)
        for _ in range(2)
    )
    experts = Experts(ours, slots=plan.slots, rank=plan.rank, alpha=ALPHA)
    experts.load(random_experts(experts, 0))
    clock = Clock(device)
    machine = Machine.measured(clock, dtype)
    with TemporaryDirectory() as folder:
        folders = [Path(folder) / str(slot) for slot in range(experts.slots)]
        for slot, place in enumerate(folders):
            experts.save(slot, place)
        loop = PeftLoop(theirs, folders)
    results = compare(list(_cases(plan, experts, loop)), plan.repeats, clock, machine)
    title = f"{plan.size}{HELD[plan.bits]}, {dtype}, {_place(device)}"
    console.print(tables.comparison(title, results))
    rows = [{**result.to_json(), "computed": computed(plan, experts, result)} for result in results]
    return {
        "plan": asdict(plan),
        "device": _place(device),
        "dtype": str(dtype),
        "clock": clock.kind,
        "threads": torch.get_num_threads(),
        "flops_per_second": machine.rate,
        "results": rows,
    }


def _cases(plan: Plan, experts: Experts, loop: PeftLoop) -> Iterator[Case]:
    cap = plan.row_cap or default_row_cap(experts.backbone.device)
    vocabulary = experts.backbone.head.vocabulary
    works = [
        workload(vocabulary, length, sequences=plan.sequences, probed=plan.batches)
        for length in plan.lengths
    ]
    yield from (
        probe_case(experts, loop, work, number, cap) for work in works for number in plan.probed
    )
    for work in works:
        for number in plan.trained:
            yield training_case(experts, loop, work, number, cap, _ways(plan, number))
    for number in plan.answered:
        yield generation_case(experts, loop, works[0], number, plan.new_tokens)


def _ways(plan: Plan, trained: int) -> Sequence[Way]:
    """Return the ways of PEFT that train rightly: with checkpointing two passes alone do.

    On a 4-bit base a mixed batch raises: PEFT adds in place to an output that is a view.
    """
    if plan.checkpointed or trained == 1:
        return WAYS[:1]
    return WAYS[:2] if plan.bits == 4 else WAYS


def computed(plan: Plan, experts: Experts, result: Result) -> float:
    """Return the bytes above rest that the model of memory gives for a case."""
    cap = plan.row_cap or default_row_cap(experts.backbone.device)
    training = result.case.phase == "training"
    length = int(result.case.length)
    rows = min(length * plan.sequences * result.case.experts, max(cap, length))
    work = Work(
        rows=rows,
        rank=plan.rank,
        resident=0,
        trained=result.case.experts if training else 0,
        value=experts.backbone.model.dtype.itemsize,
        bits=plan.bits,
        checkpointed=plan.checkpointed,
        on_gpu=experts.backbone.device.type != "cpu",
    )
    found = footprint(Shape.of(experts.backbone.model), work)
    return found.total - found.weights


def _place(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    typer.run(main)
