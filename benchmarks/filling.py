"""Passes filled with tokens against batches of ``batch-size`` examples, where text is short.

``python -m benchmarks.filling [--experts M ...] [--repeats R] [key=value ...]``

One silo of the run that the settings describe is asked about its probe in both ways, in turns.
Medians, smallest and largest of the ratios; the likelihoods of both ways are compared.
"""

from __future__ import annotations

from statistics import mean
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Clock, Pairs, in_turns
from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.batches import Batch, Example, by_length, collate
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.overrides import gather
from fedvemoe_app.silo import open_silo


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")] = None,
    experts: Annotated[list[int] | None, typer.Option(help="Experts that are asked.")] = None,
    repeats: Annotated[int, typer.Option(help="Timings of each way.", min=1)] = 5,
    silos: Annotated[int, typer.Option(help="Silos among whom the tasks are shared.")] = 12,
) -> None:
    """Measure one silo's probe in both ways."""
    torch.set_num_threads(1)
    config = RunConfig.from_flat(gather(RunConfig, None, settings or []))
    family = open_silo(config, 0, silos).family
    examples = (*family.data.probe, *family.data.top_up)
    size, pad = config.rounds.batch_size, family.experts.backbone.tokenizer.pad_token_id
    ways = by_length(examples, family.row_cap, pad), by_number(examples, size, pad)
    tokens = mean(len(example.ids) for example in examples)
    title = f"{len(examples)} examples, {tokens:.0f} tokens each; row-cap {family.row_cap}"
    table = Table("experts", "s", f"{size} examples / filled", "range", title=title)
    for m in experts or [1, 2, 4, 12]:
        pairs = measured(family, ways, range(m), repeats)
        low, high = min(pairs.ratios), max(pairs.ratios)
        seconds = f"{min(pairs.ours):.3f}"
        table.add_row(str(m), seconds, f"{pairs.speed_up:.2f}", f"{low:.2f}-{high:.2f}")
    Console().print(table)


def measured(
    family: LanguageFamily, ways: tuple[list[Batch], list[Batch]], slots: range, repeats: int
) -> Pairs:
    """Return the seconds of both ways after a round that also compares what they find."""

    def asked(batches: list[Batch]) -> torch.Tensor:
        return token_log_lik(family.experts, batches, list(slots), row_cap=family.row_cap)[0]

    filled, other = map(asked, ways)
    assert (filled - other).abs().max() < 1e-4
    ours, theirs = in_turns(
        [lambda: asked(ways[0]), lambda: asked(ways[1])], repeats, Clock(torch.device("cpu"))
    )
    return Pairs(ours, theirs)


def by_number(examples: tuple[Example, ...], size: int, pad: int) -> list[Batch]:
    """Return neighbours in length, ``size`` of them in a batch."""
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].ids))
    starts = range(0, len(order), size)
    return [collate(examples, order[start : start + size], pad) for start in starts]


if __name__ == "__main__":
    typer.run(main)
