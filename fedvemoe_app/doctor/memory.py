"""Room in memory for training, and the settings that would need less of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import psutil
import torch

from fedvemoe_app.config import RunConfig
from fedvemoe_app.doctor.finding import GIGABYTE, Finding, failed, gigabytes, ok, warning
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.family import default_row_cap
from fedvemoe_app.model.footprint import Footprint, Shape, Work, footprint
from fedvemoe_app.model.quantisation import saved_bits
from fedvemoe_app.settings import Value
from fedvemoe_app.strategies.registry import settle
from fedvemoe_app.terms import slots_of, trained_of

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
Change = Mapping[str, Value]


def memory(config: RunConfig, found: Backbone | None) -> Finding:
    """Check free memory, of the GPU where there is one, against what training should take."""
    place, free = _free_memory(config.model.device)
    if found is None:
        return ok(f"{place}: {free / GIGABYTE:.1f} GB free, the base needs little")
    shape, on_gpu = Shape.of(found.model), place != "memory"
    saved = saved_bits(found.model.config)
    config = _in_bits(config, saved) if saved else config
    peak = training_peak(config, shape, on_gpu=on_gpu)
    what = (
        f"{place}: {free / GIGABYTE:.1f} GB free; computed for training: {gigabytes(peak.total)}, "
        f"of which weights {gigabytes(peak.weights)}, experts {gigabytes(peak.experts)}, "
        f"activations {gigabytes(peak.activations)}, logits {gigabytes(peak.logits)}"
    )
    if peak.total <= free:
        return ok(what)
    less = _less(config, shape, on_gpu, fixed=bool(saved))
    if peak.weights > free:
        return failed(what, f"free some, or take a smaller model-name. {less}")
    return warning(what, f"passes shrink by themselves where they do not fit. {less}")


def training_peak(config: RunConfig, shape: Shape, *, on_gpu: bool) -> Footprint:
    """Return what a silo's training step holds at its peak, by ``model.footprint``."""
    config = settle(config)
    settings, m, length = config.model, trained_of(config), config.data.seq_len
    cap = config.rounds.row_cap or default_row_cap(torch.device("cuda" if on_gpu else "cpu"))
    sequences = min(config.rounds.batch_size, max(1, cap // (length * m)))
    work = Work(
        rows=sequences * length * m,
        rank=settings.lora_rank,
        resident=slots_of(config),
        trained=m,
        value=BYTES.get(settings.dtype, 2.0 if on_gpu or settings.bits else 4.0),
        bits=settings.bits,
        checkpointed=settings.gradient_checkpointing,
        on_gpu=on_gpu,
        packed=length if config.rounds.packing == "auto" else 0,
    )
    return footprint(shape, work)


def _in_bits(config: RunConfig, bits: int) -> RunConfig:
    """Return the settings under which a base that was saved in ``bits`` is what it is."""
    ways = {"use-4bit": bits == 4, "use-8bit": bits == 8}
    return RunConfig.from_flat({**config.to_flat(), **ways})


def _less(config: RunConfig, shape: Shape, on_gpu: bool, *, fixed: bool) -> str:
    """Say what other settings would need: each that helps, and all of these together.

    ``fixed``: the base was saved in few bits, and cannot be had in fewer.
    """

    def peak(change: Change) -> float:
        other = RunConfig.from_flat({**config.to_flat(), **change})
        return training_peak(other, shape, on_gpu=on_gpu).total

    now = training_peak(config, shape, on_gpu=on_gpu).total
    peaks = [(change, peak(change)) for change in _changes(config, fixed)]
    helpful = [(change, need) for change, need in peaks if need < now]
    if not helpful:
        return "No other setting needs less"
    each = ", ".join(f"{_words(config, change)} {gigabytes(need)}" for change, need in helpful)
    together = {key: value for change, _ in helpful for key, value in change.items()}
    return f"Needed with {each}; with all of them {gigabytes(peak(together))}"


def _changes(config: RunConfig, fixed: bool) -> Iterator[Change]:
    """Yield settings under which less may be needed; of two ways to quantise the smaller last."""
    if not config.model.bits:
        yield {"use-8bit": True}
    if config.model.bits != 4 and not fixed:
        yield {"use-4bit": True, "use-8bit": False}
    if not config.model.gradient_checkpointing:
        yield {"gradient-checkpointing": True}
    yield {"seq-len": max(8, config.data.seq_len // 2)}
    yield {"row-cap": config.data.seq_len * config.em.top_m}  # a pass of one sequence


def _words(config: RunConfig, change: Change) -> str:
    """Return what must be given to make a change, as the command line takes it."""
    now = config.to_flat()
    return " ".join(f"{key}={value}".lower() for key, value in change.items() if now[key] != value)


def _free_memory(device: str) -> tuple[str, float]:
    if device != "cpu" and torch.cuda.is_available():
        return "GPU", float(torch.cuda.mem_get_info()[0])
    return "memory", float(psutil.virtual_memory().available)
