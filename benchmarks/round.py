"""What a round costs, and what it would cost with plain PEFT adapters used one after another.

``python -m benchmarks.round [--json FILE] [--model NAME] [--silos N] [--repeats R] [k=v ...]``

The first table shows one round of a few silos phase by phase; its absolute seconds depend on the
machine. The second shows ratios: parts of the same work done with stacked experts and
with ``set_adapter`` in a loop (``peft_loop``), in turns. No ratio is printed unless both ways
give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import tables
from benchmarks.comparison import (
    Case,
    compare,
    generation_case,
    probe_case,
    training_case,
)
from benchmarks.memory import process_peak
from benchmarks.peft_loop import PeftLoop
from benchmarks.phases import Stopwatch, one_round
from benchmarks.timing import Clock
from benchmarks.workload import long, random_experts, short
from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import FedVemoeError, SettingError
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.bases import locate
from fedvemoe_app.overrides import gather
from fedvemoe_app.report.manifest import manifest
from fedvemoe_app.silo import Silo, open_silo

FEDERATION = 12  # silos among whom the tasks are shared out, as in `make demo`
PROBED = (3, 6, 12)
TRAINED = (1, 2)


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    model: Annotated[str, typer.Option(help="Base model; the same as model-name=...")] = "",
    silos: Annotated[int, typer.Option(help="Silos whose round is measured.", min=1)] = 3,
    repeats: Annotated[int, typer.Option(help="Pairs of timings of each case.", min=1)] = 5,
    long_tokens: Annotated[int, typer.Option(help="Tokens of a long sequence.", min=8)] = 256,
) -> None:
    """Measure a round, and compare its parts with plain PEFT adapter switching."""
    console = Console()
    words = [*(settings or []), *([f"model-name={model}"] if model else [])]
    try:
        config = RunConfig.from_flat(gather(RunConfig, None, words))
        if json_file and not json_file.absolute().parent.is_dir():
            raise SettingError(f"--json {json_file}: its folder does not exist: make it first")
        results = benchmark(config, silos, repeats, long_tokens, console)
        if json_file:
            json_file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    except FedVemoeError as error:
        console.print(f"[bold red]error:[/bold red] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def benchmark(
    config: RunConfig, silos: int, repeats: int, long_tokens: int, console: Console
) -> dict[str, Any]:
    """Print both tables and return their numbers; RunError if the two ways disagree."""
    opened = [open_silo(config, index, max(FEDERATION, silos)) for index in range(silos)]
    experts = opened[0].family.experts
    clock = Clock(experts.backbone.device)
    bank = Bank.start(random_experts(experts, config.output.seed), alive=config.em.k_init)
    watch = _warm_round(opened, bank, clock)
    console.print(tables.phases(watch, silos))
    experts.load(bank.experts)
    with TemporaryDirectory() as folder:
        loop = _adapter_loop(config, opened[0], Path(folder))
        results = compare(list(_cases(opened[0], loop, long_tokens)), repeats, clock)
    console.print(tables.comparison(results))
    return {
        **_made_with(config, opened[0], clock),
        "silos": silos,
        "repeats": repeats,
        "long_tokens": long_tokens,
        "process_peak_bytes": process_peak(clock.device),
        "round": watch.to_json(),
        "comparison": [result.to_json() for result in results],
    }


def _warm_round(silos: list[Silo], bank: Bank, clock: Clock) -> Stopwatch:
    """Return the second of two rounds: the first one of a process pays for what is set up once."""
    one_round(silos[:1], bank, clock)
    return one_round(silos, bank, clock)


def _adapter_loop(config: RunConfig, silo: Silo, folder: Path) -> PeftLoop:
    """Save the experts as adapter folders and load them with plain PEFT on another base."""
    experts, model = silo.family.experts, config.model
    folders = [folder / str(slot) for slot in range(experts.slots)]
    for slot, place in enumerate(folders):
        experts.save(slot, place)
    backbone = load_backbone(
        locate(model.model_name),
        dtype=model.dtype,  # type: ignore[arg-type]
        use_4bit=model.use_4bit,
        device=model.device,
    )
    return PeftLoop(backbone, folders)


def _cases(silo: Silo, loop: PeftLoop, long_tokens: int) -> Iterator[Case]:
    family, tokens = silo.family, silo.config.evaluation.max_new_tokens
    works = (short(silo), long(silo, long_tokens))
    probed = [experts for experts in PROBED if experts <= family.experts.slots]
    trained = [experts for experts in TRAINED if experts <= family.experts.slots]
    for work in works:
        for experts in probed:
            yield probe_case(family, loop, work, experts)
    for work in works:
        for experts in trained:
            yield training_case(family, loop, work, experts)
        yield training_case(family, loop, work, trained[-1], one_pass=True)
    for experts in trained:
        yield generation_case(family, loop, works[0], experts, tokens)


def _made_with(config: RunConfig, silo: Silo, clock: Clock) -> dict[str, Any]:
    backbone = silo.family.experts.backbone
    return manifest(
        {
            "base": config.model.model_name,
            "base_fingerprint": backbone.fingerprint,
            "device": str(backbone.device),
            "dtype": str(backbone.model.dtype),
            "threads": torch.get_num_threads(),
            "clock": clock.kind,
            "settings": config.to_flat(),
        }
    )


if __name__ == "__main__":
    typer.run(main)
