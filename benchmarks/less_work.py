"""Less work for the same decisions: what a probe of many experts can leave out.

``python -m benchmarks.less_work [--seeds N] [--silos N] [--rounds R] [--only IDEA ...]
[--json FILE] [k=v ...]``

A small federation without Flower, with twelve experts and neither lifecycle nor private slot, keeps
every probe in full; on those matrices each idea is tried afterwards: how far are the
responsibilities from those of the full probe, and what part of the token rows was asked for.
Then the probes are timed, in turns, and the runs compared by their final perplexity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.probe_ideas import decisions
from benchmarks.timing import Clock, in_turns
from fedvemoe_app.config import RunConfig
from fedvemoe_app.em import round as em
from fedvemoe_app.em.family import Probe
from fedvemoe_app.em.state import Bank
from fedvemoe_app.evaluation.scores import pool
from fedvemoe_app.evaluation.suite import evaluate
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.overrides import gather
from fedvemoe_app.silo import Silo, experts_on, open_silo
from fedvemoe_app.terms import inference

EXPERTS = 12
WARM_UP = 2  # rounds in which a silo trains the expert it drew
PRIOR = torch.full((EXPERTS,), 1 / EXPERTS, dtype=torch.float64)
SETTINGS = (
    f"k-init={EXPERTS}",
    f"k-max={EXPERTS}",
    "lifecycle=false",
    "private-slot=off",
    "generate-examples=0",
    "torch-threads=1",
)
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "full": {"layers": "all", "probing": "full"},
    "successive": {"layers": "all", "probing": "successive"},
    "upper": {"layers": "upper", "probing": "full"},
    "upper, successive": {"layers": "upper", "probing": "successive"},
}


@dataclass
class Federation:
    """Silos of one variant, their bank, and by silo every probe since the warm-up."""

    families: list[LanguageFamily]
    bank: Bank
    probes: list[list[Probe]]
    ppl: float = 0.0
    beliefs: list[em.Belief] = field(default_factory=list)


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    silos: Annotated[int, typer.Option(min=2)] = 6,
    rounds: Annotated[int, typer.Option(min=WARM_UP + 1)] = 6,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Of: {', '.join(VARIANTS)}.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Measure what probing less does to responsibilities, seconds and perplexity."""
    console = Console()
    for label in only or []:
        if label not in VARIANTS:
            raise typer.BadParameter(f"--only {label}: choose of {'; '.join(VARIANTS)}")
    words = [*SETTINGS, *(settings or [])]
    config = RunConfig.from_flat(gather(RunConfig, None, words))
    runs: dict[tuple[str, int], Federation] = {}
    variants = {
        label: variant
        for label, variant in VARIANTS.items()
        if label in {"full", *(only or VARIANTS)}
    }
    found: dict[str, Any] = {"settings": words, "perplexity": {label: [] for label in variants}}
    for seed in range(seeds):
        for label, variant in variants.items():
            made = _federation(_seeded(config, seed), silos, rounds, **variant)
            runs[label, seed] = made
            found["perplexity"][label].append(made.ppl)
            console.print(f"{label}, seed {seed}: perplexity {made.ppl:.4f}", highlight=False)
    found["decisions"] = decisions(
        [probes for seed in range(seeds) for probes in runs["full", seed].probes], PRIOR
    )
    console.print(_decided(found["decisions"]))
    found["seconds"] = seconds({label: runs[label, 0] for label in variants}, repeats)
    console.print(_timed(found["seconds"]))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _seeded(config: RunConfig, seed: int) -> RunConfig:
    return replace(config, output=replace(config.output, seed=seed))


def _federation(
    config: RunConfig, silos: int, rounds: int, *, layers: str, probing: str
) -> Federation:
    """Run a federation of a variant to its end."""
    opened = [open_silo(config, index, silos) for index in range(silos)]
    backbone = load_backbone(locate(config.model.model_name), device=config.model.device)
    experts = experts_on(backbone, replace(config.model, adapter_layers=layers), EXPERTS)
    families = [
        replace(silo.family, experts=experts, probing=probing)  # type: ignore[arg-type]
        for silo in opened
    ]
    bank = Bank.start(experts.initial(config.output.seed), alive=EXPERTS)
    made = Federation(families, bank, [[] for _ in opened])
    for round_ in range(1, rounds + 1):
        _round(config, opened, made, round_)
    _assess(config, made)
    total = pool(
        score
        for family, belief in zip(made.families, made.beliefs, strict=True)
        for score in evaluate(family, belief, max_new_tokens=1).values()
    )
    made.ppl = total.ppl or math.nan
    return made


def _round(config: RunConfig, silos: Sequence[Silo], made: Federation, round_: int) -> None:
    if round_ > WARM_UP:
        _assess(config, made)
        weights = [belief.train for belief in made.beliefs]
    else:
        weights = [silo.first_expert(EXPERTS) for silo in silos]
    updates = [
        em.train(family, made.bank, r, round_)
        for family, r in zip(made.families, weights, strict=True)
    ]
    made.bank = em.train_step(made.bank, reduce(add, updates), silos=len(silos))


def _assess(config: RunConfig, made: Federation) -> None:
    probes = [em.probed(family, made.bank) for family in made.families]
    judged = [em.judge(probe, made.bank, inference(config)) for probe in probes]
    made.beliefs = [belief for belief, _, _ in judged]
    for kept, probe in zip(made.probes, probes, strict=True):
        kept.append(probe)
    made.bank = em.assess_step(made.bank, reduce(add, (sums for _, sums, _ in judged)))


def seconds(runs: Mapping[str, Federation], repeats: int) -> dict[str, list[float]]:
    """Return seconds of probing all silos, all ways in turns.

    Those with experts in the upper half are timed with and without hidden states that were kept.
    """
    clock = Clock(runs["full"].families[0].experts.backbone.device)

    def probing(run: Federation, *, kept: bool) -> Callable[[], None]:
        def work() -> None:
            for family in run.families:
                if family.experts.trunk and not kept:
                    family.experts.trunk.kept.clear()
                em.probed(family, run.bank)

        return work

    works = {label: probing(run, kept=True) for label, run in runs.items()}
    order = list(runs)
    if "upper" in runs:
        works["upper, nothing kept"] = probing(runs["upper"], kept=False)
        order = ["upper, nothing kept", *runs]  # what is kept is there when its turn comes
    for work in works.values():
        work()
    timed = in_turns([works[label] for label in order], repeats, clock)
    return {label: list(column) for label, column in zip(order, timed, strict=True)}


def _decided(rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table("Responsibilities against the full probe", *next(iter(rows.values())))
    for idea, figures in rows.items():
        table.add_row(idea, *(f"{value:.3f}" for value in figures.values()))
    return table


def _timed(seconds: Mapping[str, Sequence[float]]) -> Table:
    table = _table("Probe of all silos", "seconds", "ratio", "min")
    for label, taken in seconds.items():
        ratios = [one / other for one, other in zip(seconds["full"], taken, strict=True)]
        table.add_row(label, f"{median(taken):.2f}", f"{median(ratios):.2f}", f"{min(ratios):.2f}")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    typer.run(main)
