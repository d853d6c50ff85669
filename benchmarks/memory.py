"""Peak memory of a piece of work, above what was held before it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from benchmarks.timing import Work

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def peak_above_rest(work: Work, device: torch.device) -> int | None:
    """Return bytes; None where the system cannot tell (a CPU without Linux's ``/proc``)."""
    gc.collect()
    if device.type == "cuda":
        return _peak_on_cuda(work, device)
    return _peak_resident(work) if RESET.exists() else None


def _peak_on_cuda(work: Work, device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_resident(work: Work) -> int:
    # Freed memory that the C library keeps would hide what the work takes.
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # sets the high-water mark to what is resident now
    before = _kilobytes("VmHWM")
    work()
    return 1024 * (_kilobytes("VmHWM") - before)


def process_peak(device: torch.device) -> int | None:
    """Return the largest number of bytes held since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * _kilobytes("VmHWM") if STATUS.exists() else None


def _kilobytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
