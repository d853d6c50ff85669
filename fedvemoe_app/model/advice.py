"""What a silo can do that has too little memory, with numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.footprint import Shape, Work, footprint

GIGABYTE = 1e9


def advice(experts: Experts, length: int, trained: int) -> str:
    """Say what one sequence of ``length`` tokens needs here, and what it would need otherwise.

    ``trained`` experts are trained; 0 for a probe.
    """
    backbone = experts.backbone
    shape = Shape.of(backbone.model)
    work = Work(
        rows=length,
        rank=experts.rank,
        resident=experts.slots,
        trained=trained,
        value=backbone.model.dtype.itemsize,
        bits=backbone.bits,
        checkpointed=backbone.checkpointed,
        on_gpu=backbone.device.type != "cpu",
    )
    return (
        f"A sequence of {length:,} tokens needs about {_gb(shape, work)} here"
        f"{_there(backbone.device)}; by the same estimate {_otherwise(shape, work)}."
    )


def _otherwise(shape: Shape, work: Work) -> str:
    """Say what each change of a setting would need, and all of them together."""
    changes = list(_changes(work))
    each = [f"{setting} {_gb(shape, replace(work, **change))}" for setting, change in changes]
    together: dict[str, Any] = {}
    for _, change in changes:
        together |= change  # of two ways to quantise the later one is the smaller
    return f"{', '.join(each)}; with all of them {_gb(shape, replace(work, **together))}"


def _changes(work: Work) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield settings that would need less, and what is other about the work under them."""
    value = min(work.value, 2.0)
    if not work.bits:
        yield "use-8bit=true", {"bits": 8, "value": value}
        yield "use-4bit=true", {"bits": 4, "value": value}
    if work.bits == 8:
        yield "use-8bit=false use-4bit=true", {"bits": 4}
    if work.trained and not work.checkpointed:
        yield "gradient-checkpointing=true", {"checkpointed": True}
    yield f"seq-len={work.rows // 2}", {"rows": work.rows // 2}
    if work.resident > 1:
        yield f"k-max={work.resident // 2}", {"resident": work.resident // 2}


def _gb(shape: Shape, work: Work) -> str:
    return f"{footprint(shape, work).total / GIGABYTE:.3g} GB"


def _there(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f", and {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB of {device} are free"
