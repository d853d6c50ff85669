"""A base in 8 bits: our product against bitsandbytes' own, LLM.int8, on the same 8-bit weights.

``python -m benchmarks.eight_bits [--base NAME] [--sequences N] [--outlier FACTOR] [--json FILE]``

How far are log-likelihoods from those of the float32 base; what do other rows of a pass change
about a row; what does a training step with recomputed activations hold; how long does a pass take.
Large bases have a few columns of large activations, small ones do not: ``--outlier`` makes some by
scaling a norm's outputs up and the weights that read them down, which changes no result in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.memory import peak_above_rest
from benchmarks.sizes import random_backbone
from benchmarks.timing import Clock, in_turns
from fedvemoe_app.config import RunConfig
from fedvemoe_app.model.backbone import Backbone, load_backbone
from fedvemoe_app.model.bases import locate
from fedvemoe_app.silo import open_silo

OURS, WHOLE = "ours", "float32"
THRESHOLDS = {"LLM.int8, threshold 6": 6.0, "LLM.int8, threshold 0": 0.0}
CPU = torch.device("cpu")
CHANNELS = 3
"""Columns that are made large in every layer."""
Found = dict[str, dict[str, float]]


def main(
    base: Annotated[str, typer.Option(help="A base of Llama's form.")] = "builtin:tiny",
    sequences: Annotated[int, typer.Option(help="Test examples read.", min=2)] = 24,
    outlier: Annotated[float, typer.Option(help="Factor on a few columns.", min=1.0)] = 1.0,
    repeats: Annotated[int, typer.Option(help="Timings of each way.", min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Compare ways to multiply by 8-bit weights."""
    with TemporaryDirectory() as folder:
        found = compared(with_outliers(base, outlier, Path(folder)), sequences, repeats)
    Console(width=150).print(_table(found, f"{base}, columns times {outlier:g}"))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def compared(folder: str, sequences: int, repeats: int) -> Found:
    """Return the figures of each way."""
    whole, four, eight = (
        load_backbone(folder, bits=bits, dtype="float32", device="cpu") for bits in (0, 4, 8)
    )
    rows = [example.ids for example in open_silo(RunConfig(), 0, 4).family.data.test[:sequences]]
    truth = _alone(whole, rows)
    found = {WHOLE: _read(whole, rows, truth), "NF4": _read(four, rows, truth)}
    memory = random_backbone("medium", CPU, torch.float32, bits=8, checkpointed=True)
    for way in (OURS, *THRESHOLDS):
        with product(eight, way), product(memory, way):
            found[way] = _read(eight, rows, truth)
            found[way]["step_mib"] = _step_mib(memory)
    plain = random_backbone("medium", CPU, torch.float32, checkpointed=True)
    found[WHOLE]["step_mib"] = _step_mib(plain)
    for way, ratio in _ratios(eight, whole, rows, repeats).items():
        found[way]["seconds_over_ours"] = ratio
    return found


@contextmanager
def product(backbone: Backbone, way: str) -> Iterator[None]:
    """Let 8-bit layers multiply in one of the ways; the weights stay."""
    from bitsandbytes.nn import Linear8bitLt

    layers = [part for part in backbone.model.modules() if isinstance(part, Linear8bitLt)]
    kinds = [type(layer) for layer in layers]
    for layer in layers if way in THRESHOLDS else ():
        layer.__class__ = Linear8bitLt
        layer.state.threshold = THRESHOLDS[way]
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


def with_outliers(base: str, factor: float, folder: Path) -> str:
    """Write the base with ``CHANNELS`` columns of its layers' inputs times ``factor``."""
    backbone = load_backbone(locate(base), dtype="float32", device="cpu")
    with torch.no_grad():
        for layer in backbone.model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            _widen(
                layer.input_layernorm,
                (attention.q_proj, attention.k_proj, attention.v_proj),
                factor,
            )
            _widen(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), factor)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return str(folder)


def _widen(norm: Any, readers: Sequence[Any], factor: float) -> None:
    norm.weight[:CHANNELS] *= factor
    for reader in readers:
        reader.weight[:, :CHANNELS] /= factor


def _read(backbone: Backbone, rows: Sequence[Sequence[int]], truth: Tensor) -> dict[str, float]:
    """Return errors in nats a token, and what company changes, at most and on average."""
    alone = _alone(backbone, rows)
    together = _together(backbone, rows)
    error, company = (alone - truth).abs(), (together - alone).abs()
    return {
        "error_mean": float(error.mean()),
        "perplexity": float(alone.mean().neg().exp()),
        "company_mean": float(company.mean()),
        "company_most": float(company.max()),
    }


@torch.no_grad()
def _alone(backbone: Backbone, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return log p of every token but the first, one row in a pass."""
    parts = []
    for row in rows:
        ids = torch.tensor([row])
        parts.append(_log_p(backbone.model(input_ids=ids).logits, ids)[0])
    return torch.cat(parts)


@torch.no_grad()
def _together(backbone: Backbone, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the same from one pass of all rows, padded to the right."""
    ids = _padded(rows, backbone.tokenizer.pad_token_id)
    log_p = _log_p(backbone.model(input_ids=ids).logits, ids)
    return torch.cat([log_p[j, : len(row) - 1] for j, row in enumerate(rows)])


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])


def _log_p(logits: Tensor, ids: Tensor) -> Tensor:
    """Return [B, T-1] of logits [B, T, V] and tokens [B, T]."""
    log_p = logits[:, :-1].log_softmax(dim=-1)
    return log_p.gather(-1, ids[:, 1:, None])[..., 0]


def _step_mib(backbone: Backbone) -> float:
    """Return the peak of a pass and its backward pass with recomputed activations, over rest."""
    embedded = torch.randn(8, 128, backbone.model.config.hidden_size, requires_grad=True)

    def step() -> None:
        with backbone.checkpointing():
            hidden = backbone.model.base_model(inputs_embeds=embedded, use_cache=False)
            torch.autograd.backward(hidden.last_hidden_state.sum())

    step()
    embedded.grad = None
    return (peak_above_rest(step, CPU) or 0) / 2**20


def _ratios(
    eight: Backbone, whole: Backbone, rows: Sequence[Sequence[int]], repeats: int
) -> dict[str, float]:
    """Return the seconds of a pass over all rows against those of our way."""

    def run(backbone: Backbone, way: str) -> None:
        with product(backbone, way):
            _together(backbone, rows)

    ways = (OURS, *THRESHOLDS, WHOLE)
    works = [partial(run, whole if way == WHOLE else eight, way) for way in ways]
    for work in works:
        work()
    ours, *others = in_turns(works, repeats, Clock(CPU))
    return {
        way: median(other / mine for mine, other in zip(ours, seconds, strict=True))
        for way, seconds in zip(ways[1:], others, strict=True)
    }


def _table(found: Mapping[str, Mapping[str, float]], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    columns = list(dict.fromkeys(name for figures in found.values() for name in figures))
    for name in ("way", *columns):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, figures in found.items():
        table.add_row(way, *(f"{figures[c]:.4g}" if c in figures else "" for c in columns))
    return table


if __name__ == "__main__":
    typer.run(main)
