"""What a checkpoint costs: storing and reading a state, against the plainest write of its bytes.

    python -m benchmarks.checkpoint --experts 3 --experts 12

A 7B base (Qwen2.5-7B, all linear layers, rank 8) has 20.2 million values in an expert. Both ways
write the same number of bytes to the same disk and sync them, in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fedvemoe_app.flower.shelf import Shelf, State

VALUES, TENSORS = 20_185_088, 392
"""Of one expert of the 7B run: 28 layers with 7 modules, A and B."""


def seconds(action: Callable[[], object]) -> float:
    """Return the wall time of an action."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def plain_write(path: Path, data: bytes) -> None:
    """Write and sync, and nothing else."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def measure(experts: int, repeats: int, folder: Path) -> str:
    """Return the row of a bank of so many living experts."""
    arrays = {f"t{i}": torch.randn(experts, VALUES // TENSORS) for i in range(TENSORS)}
    data = torch.cat([x.reshape(-1) for x in arrays.values()]).numpy().tobytes()
    shelf, state = Shelf(folder / f"shelf-{experts}", 1), State(arrays, {})
    found: dict[str, list[float]] = {"put": [], "plain": [], "get": []}
    for number in range(repeats):
        found["plain"].append(seconds(lambda: plain_write(folder / "plain", data)))
        found["put"].append(seconds(partial(shelf.put, number, state)))
        found["get"].append(seconds(partial(shelf.get, number)))
    middle = {name: statistics.median(times) for name, times in found.items()}
    ratios = [one / other for one, other in zip(found["put"], found["plain"], strict=True)]
    return (
        f"{experts:>7} {len(data) / 1e6:>8.0f} {middle['put']:>8.2f} {middle['get']:>8.2f} "
        f"{middle['plain']:>8.2f} {statistics.median(ratios):>8.2f} {min(ratios):>8.2f}"
    )


def main() -> None:
    """Print a row for each number of experts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, action="append")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    print("experts       MB   put s    get s  plain s    ratio  smallest")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for experts in chosen.experts or [3]:
            print(measure(experts, chosen.repeats, Path(folder)))


if __name__ == "__main__":
    main()
