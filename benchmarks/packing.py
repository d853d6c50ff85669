"""Packed rows against padded ones: how much padding a run carries, and what training takes.

``python -m benchmarks.packing [--size tiny ...] [--of N] [--silos N] [--batches N] [--repeats R]
[--json FILE] [k=v ...]``

First, for each phase of all silos, the tokens that go through the model over those that are real.
Then a few training batches of some silos on bases with random weights (``benchmarks.sizes``), in
turns: packed; padded, passes cut by length; padded to one width; plain PEFT in two passes.
Nothing is timed before all have given the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import tables
from benchmarks.comparison import FINE, Case, apart_from, compare
from benchmarks.compute import ALPHA
from benchmarks.floor import Machine
from benchmarks.peft_loop import PeftLoop
from benchmarks.sizes import SIZES, random_backbone
from benchmarks.timing import Clock
from benchmarks.workload import random_experts
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.batches import Batch, Example, by_length, shuffled
from fedvemoe_app.data.encoded import EncodedTasks, encode_tasks
from fedvemoe_app.data.holdings import tasks_of
from fedvemoe_app.data.packing import Arrange, Packing, apart, passes
from fedvemoe_app.model.backbone import load_tokenizer
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import default_row_cap
from fedvemoe_app.model.footprint import Shape
from fedvemoe_app.model.packing import attention_cost
from fedvemoe_app.model.training import fit
from fedvemoe_app.overrides import gather
from fedvemoe_app.seeds import stream

CPU = torch.device("cpu")
PAD = 0
PARTS = ("train", "probe", "top_up", "test")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A silo's examples, and how they are batched for m experts on a base."""

    name: str
    data: EncodedTasks
    config: RunConfig
    attention: float

    @property
    def cap(self) -> int:
        """Token rows of a pass."""
        return self.config.rounds.row_cap or default_row_cap(CPU)

    def packing(self, examples: Sequence[Example], m: int) -> Packing:
        """Return what a run with ``packing = auto`` does."""
        longest = max(len(example.ids) for example in examples)
        return Packing(self.attention, longest, self.cap // m)

    def trained(self, arrange: Arrange, count: int) -> list[Batch]:
        """Return the first batches of a round."""
        rng = stream(self.config.output.seed, "batches", self.name, 1)
        size = self.config.rounds.batch_size
        return list(islice(shuffled(self.data.train, size, PAD, rng, arrange), count))

    def asked(self, examples: Sequence[Example], arrange: Arrange) -> list[Batch]:
        """Return examples as probes and perplexity batch them."""
        return by_length(examples, self.cap, PAD, arrange)


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    size: Annotated[list[str] | None, typer.Option(help=f"Of: {', '.join(SIZES)}.")] = None,
    of: Annotated[int, typer.Option(help="Silos among whom the tasks are shared.", min=1)] = 5,
    silos: Annotated[int, typer.Option(help="Silos whose training is timed.", min=0)] = 1,
    batches: Annotated[int, typer.Option(help="Batches that are trained on.", min=1)] = 4,
    repeats: Annotated[int, typer.Option(help="Timings of each way.", min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Measure padding, and training with and without it."""
    console = Console()
    config = RunConfig.from_flat(gather(RunConfig, None, settings or []))
    results = []
    for name in size or ["tiny"]:
        ours, theirs = (random_backbone(name, CPU, torch.float32) for _ in range(2))
        drawn = list(silos_of(config, of, Shape.of(ours.model)))
        padding = shares(drawn)
        console.print(_padding(name, padding))
        experts = Experts(ours, slots=config.em.top_m, rank=config.model.lora_rank, alpha=ALPHA)
        experts.load(random_experts(experts, 0))
        with TemporaryDirectory() as folder:
            folders = [Path(folder) / str(slot) for slot in range(experts.slots)]
            for slot, place in enumerate(folders):
                experts.save(slot, place)
            loop = PeftLoop(theirs, folders)
        cases = [training_case(experts, loop, one, batches) for one in drawn[:silos]]
        clock = Clock(CPU)
        found = compare(cases, repeats, clock, Machine.measured(clock, torch.float32))
        console.print(tables.comparison(f"{name}, packed rows", found))
        results.append({"size": name, "padding": padding, "timed": [r.to_json() for r in found]})
    if json_file:
        json_file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def silos_of(config: RunConfig, of: int, shape: Shape) -> Iterator[Drawn]:
    """Yield the silos' examples as the tokenizer of the run's base reads them.

    Words that a base of ``shape`` does not have become others: lengths are what matters.
    """
    tokenizer = load_tokenizer(locate(config.model.model_name))
    for index in range(of):
        data = encode_tasks(
            tokenizer,
            tasks_of(config.data, config.output.seed, of, index),
            seq_len=config.data.seq_len,
            probe_tokens=config.em.probe_tokens,
            eval_examples=config.evaluation.eval_examples,
            generate_examples=0,
        )
        known = {part: _folded(getattr(data, part), shape.vocabulary) for part in PARTS}
        yield Drawn(f"silo-{index:02d}", replace(data, **known), config, attention_cost(shape))


def _folded(examples: Sequence[Example], words: int) -> tuple[Example, ...]:
    return tuple(replace(one, ids=tuple(token % words for token in one.ids)) for one in examples)


def shares(silos: Sequence[Drawn]) -> dict[str, dict[str, float]]:
    """Return by phase the mean tokens of a sequence, and tokens computed over real ones, by way."""
    found: dict[str, dict[str, float]] = {}
    for phase in ("probe", "perplexity", "training"):
        padded, packed = [], []
        for one in silos:
            padded += _batches(one, phase, apart)
            packed += _batches(one, phase, one.packing(_examples(one, phase), _experts(one, phase)))
        real = sum(sum(batch.widths) for batch in padded)
        budget = silos[0].cap // _experts(silos[0], phase)
        found[phase] = {
            "mean tokens": real / sum(len(batch.rows) for batch in padded),
            "one width": sum(batch.input_ids.numel() for batch in padded) / real,
            "cut by length": _computed(padded, budget) / real,
            "packed": _computed(packed, budget) / real,
        }
    return found


def _batches(one: Drawn, phase: str, arrange: Arrange) -> list[Batch]:
    if phase == "training":
        return one.trained(arrange, one.config.rounds.local_steps)
    return one.asked(_examples(one, phase), arrange)


def _examples(one: Drawn, phase: str) -> tuple[Example, ...]:
    data = one.data
    return {"probe": (*data.probe, *data.top_up), "perplexity": data.test}.get(phase, data.train)


def _experts(one: Drawn, phase: str) -> int:
    return one.config.em.k_init if phase == "probe" else one.config.em.top_m


def _computed(batches: Sequence[Batch], budget: int) -> int:
    """Return the tokens, padding among them, of all passes."""
    return sum(
        batch.part(rows).input_ids.numel()
        for batch in batches
        for rows in passes(batch.widths, budget)
    )


def training_case(experts: Experts, loop: PeftLoop, one: Drawn, count: int) -> Case:
    """Train both factors of all experts for ``count`` steps."""
    slots = range(experts.slots)
    padded = one.trained(apart, count)
    ways = {
        "ours": one.trained(one.packing(one.data.train, len(slots)), count),
        "cut by length": padded,
        "one width": [_one_width(batch) for batch in padded],
    }
    options: dict[str, Any] = {"factor": "both", "max_grad_norm": 1.0}
    weights = torch.full((len(slots),), 1 / len(slots), dtype=torch.float64)
    start = experts.state()

    def ours(way: str, rate: float = 3e-3, optimizer: Any = "adamw") -> dict[str, Tensor]:
        experts.load(start)
        options_ = {**options, "learning_rate": rate, "optimizer": optimizer}
        batches, cap = iter(ways[way]), one.cap
        return fit(experts, batches, slots, weights, steps=count, row_cap=cap, **options_).delta

    def theirs(rate: float = 3e-3, optimizer: Any = "adamw") -> dict[str, Tensor]:
        loop.reset()
        options_ = {**options, "learning_rate": rate, "optimizer": optimizer}
        return loop.fit(padded, slots, weights, **options_)

    others = {way: partial(ours, way) for way in ways if way != "ours"} | {"two passes": theirs}

    def joined(work: Any) -> Tensor:
        return torch.cat([delta.flatten() for _, delta in sorted(work(0.1, "sgd").items())])

    mine = partial(joined, partial(ours, "ours"))
    return Case(
        "training",
        one.name,
        len(slots),
        len(slots) * sum(sum(batch.widths) for batch in padded),
        0.0,
        partial(ours, "ours"),
        others,
        {way: apart_from(mine, partial(joined, other)) for way, other in others.items()},
        FINE,
    )


def _one_width(batch: Batch) -> Batch:
    """Return the same batch as if its padding were part of the sequences."""
    rows, width = batch.input_ids.shape
    return replace(batch, lengths=((width,),) * rows)


def _padding(name: str, padding: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"{name}: tokens through the model over real ones", box=box.SIMPLE_HEAD)
    for heading in ("phase", *padding["training"]):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, found in padding.items():
        table.add_row(phase, *(f"{value:.3g}" for value in found.values()))
    return table


if __name__ == "__main__":
    typer.run(main)
