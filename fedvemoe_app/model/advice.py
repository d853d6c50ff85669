"""What a silo can do that has too little memory, with numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
        bits=4 if getattr(backbone.model, "is_loaded_in_4bit", False) else 0,
        checkpointed=backbone.checkpointed,
        on_gpu=backbone.device.type != "cpu",
    )
    others = ", ".join(
        f"{setting} {footprint(shape, other).total / GIGABYTE:.3g} GB"
        for setting, other in _otherwise(work)
    )
    need = footprint(shape, work).total / GIGABYTE
    return (
        f"A sequence of {length:,} tokens needs about {need:.3g} GB here{_there(backbone.device)}; "
        f"by the same estimate {others}."
    )


def _otherwise(work: Work) -> Iterator[tuple[str, Work]]:
    """Yield settings that would need less, and the work under them."""
    if not work.bits:
        yield "use-4bit=true", replace(work, bits=4, value=min(work.value, 2.0))
    if work.trained and not work.checkpointed:
        yield "gradient-checkpointing=true", replace(work, checkpointed=True)
    yield f"seq-len={work.rows // 2}", replace(work, rows=work.rows // 2)
    if work.resident > 1:
        yield f"k-max={work.resident // 2}", replace(work, resident=work.resident // 2)


def _there(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f", and {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB of {device} are free"
