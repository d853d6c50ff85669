"""What a round costs, phase by phase.

``python -m benchmarks.round [--json FILE] [--model NAME] [--silos N] [k=v ...]``

One round of a few silos and their server through the real functions; absolute seconds depend on
the machine. How the parts compare with plain PEFT is measured by ``benchmarks.compute``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import tables
from benchmarks.memory import process_peak
from benchmarks.phases import Stopwatch, one_round
from benchmarks.timing import Clock
from benchmarks.workload import random_experts
from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import FedVemoeError, SettingError
from fedvemoe_app.overrides import gather
from fedvemoe_app.report.manifest import manifest
from fedvemoe_app.silo import Silo, open_silo

FEDERATION = 12  # silos among whom the tasks are shared out, as in `make demo`


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    model: Annotated[str, typer.Option(help="Base model; the same as model-name=...")] = "",
    silos: Annotated[int, typer.Option(help="Silos whose round is measured.", min=1)] = 3,
) -> None:
    """Measure a round phase by phase."""
    console = Console()
    words = [*(settings or []), *([f"model-name={model}"] if model else [])]
    try:
        config = RunConfig.from_flat(gather(RunConfig, None, words))
        if json_file and not json_file.absolute().parent.is_dir():
            raise SettingError(f"--json {json_file}: its folder does not exist: make it first")
        results = benchmark(config, silos, console)
        if json_file:
            json_file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    except FedVemoeError as error:
        console.print(f"[bold red]error:[/bold red] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def benchmark(config: RunConfig, silos: int, console: Console) -> dict[str, Any]:
    """Print the table and return its numbers."""
    opened = [open_silo(config, index, max(FEDERATION, silos)) for index in range(silos)]
    experts = opened[0].family.experts
    clock = Clock(experts.backbone.device)
    bank = Bank.start(random_experts(experts, config.output.seed), alive=config.em.k_init)
    watch = _warm_round(opened, bank, clock)
    console.print(tables.phases(watch, silos))
    return {
        **_made_with(config, opened[0], clock),
        "silos": silos,
        "process_peak_bytes": process_peak(clock.device),
        "round": watch.to_json(),
    }


def _warm_round(silos: list[Silo], bank: Bank, clock: Clock) -> Stopwatch:
    """Return the second of two rounds: the first one of a process pays for what is set up once."""
    one_round(silos[:1], bank, clock)
    return one_round(silos, bank, clock)


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
