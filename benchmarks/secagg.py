"""Secure aggregation against Flower's SecAgg+: CPU seconds, bytes, error, and the mask stream.

``python -m benchmarks.secagg [--json FILE] [--repeats R] [--large]``

Both ways sum the same vectors, in turns and in this process, with one dropout from 10 silos on.
Seconds are of this process's CPU time, so other programs disturb them little; what counts are
the ratios. Flower's are its own functions (see ``secagg_flower``).
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.secagg_case import Case, Stopwatch
from benchmarks.secagg_flower import CLIPPING_RANGE, QUANTIZATION_RANGE, FlowerRound
from benchmarks.secagg_ours import KAPPA, OurRound
from fedvemoe_app.secagg.layout import Accumulator, Field, Layout
from fedvemoe_app.secagg.masks import CHUNK_BYTES, Keystream, by_ctr, fastest_mode, scratch
from fedvemoe_app.secagg.ring import Ring

RMS = 0.01
CASES = (
    *(Case(values, 3, 0) for values in (10**5, 10**6, 10**7)),
    *(Case(values, 10, 1) for values in (10**5, 10**6, 10**7)),
    *(Case(values, 100, 1) for values in (10**5, 10**6)),
)
LARGE = (Case(10**7, 100, 1), Case(10**8, 3, 0), Case(10**8, 10, 1))
COMPACT_SILOS = 16
RATIOS = {"mask": "client vectors", "client": "client", "server": "server"}
STREAM_BYTES = 2**31


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of each case up to 1e6 values.", min=1)] = 3,
    large: Annotated[bool, typer.Option(help="Add 1e7 values for 100 silos, and 1e8.")] = False,
) -> None:
    """Measure whole rounds of both ways, the error of sums, and the mask stream."""
    console = Console()
    rows = []
    for case in (*CASES, *(LARGE if large else ())):
        rows += measure(case, repeats if case.values <= 10**6 else 1)
        console.print(f"[dim]{case}[/dim]")
    errors, stream = error_of_sums(), mask_stream()
    console.print(_rounds_table(rows), _errors_table(errors))
    console.print(stream)
    results = {"machine": platform.processor(), "rounds": rows, "errors": errors, "stream": stream}
    if json_file:
        json_file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def measure(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Return a row per ring width: seconds of both ways, and medians of ratios pair by pair."""
    vectors = np.random.default_rng(0).standard_normal(case.values, np.float32) * np.float32(RMS)
    widths = [bits for bits in (32, 16) if bits == 32 or case.silos <= COMPACT_SILOS]
    OurRound(Case(1000, 3, 0), 32, vectors[:1000], RMS).run(Stopwatch())
    pairs: dict[int, list[tuple[Stopwatch, Stopwatch]]] = {bits: [] for bits in widths}
    sizes: dict[int, int] = {}
    for _ in range(repeats):
        theirs = Stopwatch()
        flower_size = FlowerRound(case, vectors).run(theirs)
        for bits in widths:
            ours = Stopwatch()
            sizes[bits] = OurRound(case, bits, vectors, RMS).run(ours)
            pairs[bits].append((ours, theirs))
    return [
        {
            **asdict(case),
            "bits": bits,
            "bytes_per_value": sizes[bits] / case.values,
            "flower_bytes_per_value": flower_size / case.values,
            "ours": dict(pairs[bits][-1][0].seconds),
            "flower": dict(pairs[bits][-1][1].seconds),
            "ratios": {name: _ratio(pairs[bits], part) for name, part in RATIOS.items()},
        }
        for bits in widths
    ]


def _ratio(pairs: list[tuple[Stopwatch, Stopwatch]], what: str) -> float:
    side, _, part = what.partition(" ")
    return median(theirs.total(side, part) / ours.total(side, part) for ours, theirs in pairs)


def error_of_sums(silos: int = 10, values: int = 100_000) -> list[dict[str, Any]]:
    """Return relative errors of sums whose scale was guessed right, or 4 times wrong."""
    rows = []
    for name, rms in (("normal", 1e-2), ("normal", 1e-4), ("laplace", 1e-2), ("student t3", 1e-2)):
        vectors = [_drawn(name, rms, values, silo) for silo in range(silos)]
        exact = np.asarray(np.sum(vectors, axis=0, dtype=np.float64))
        flower = _relative(_flower_sum(vectors), exact)
        row: dict[str, Any] = {"values": name, "rms": f"{rms:g}", "flower": flower}
        for bits in (32, 16):
            for guess in (0.25, 1.0, 4.0):
                found = _our_sum(vectors, bits, rms * guess)
                row[f"{bits} bit x{guess:g}"] = _relative(found, exact)
        rows.append(row)
    return rows


def _drawn(name: str, rms: float, values: int, silo: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(silo)
    draw: dict[str, Callable[[int], Any]] = {
        "normal": rng.standard_normal,
        "laplace": partial(rng.laplace, 0.0, 1.0),
        "student t3": partial(rng.standard_t, 3),
    }
    draws = draw[name](values)
    return np.asarray(draws * (rms / np.sqrt(np.mean(draws**2))))


def _relative(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _our_sum(vectors: list[NDArray[np.float64]], bits: int, rms: float) -> NDArray[np.float64]:
    ring = Ring(bits, len(vectors))
    step = ring.step(rms, KAPPA[bits])
    layout = Layout((Field("x", vectors[0].shape, "tensors", (step,)),), ring)
    sums = Accumulator(layout)
    for i, vector in enumerate(vectors):
        sums.add(layout.encode({"x": vector}, i.to_bytes(16, "big")))
    return sums.total()["x"]


def _flower_sum(vectors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    quantized = [quantize([v], CLIPPING_RANGE, QUANTIZATION_RANGE)[0] for v in vectors]
    mean = np.sum(quantized, axis=0) / len(vectors)
    found: NDArray[np.float64] = dequantize([mean], CLIPPING_RANGE, QUANTIZATION_RANGE)[0]
    return found * len(vectors)


def mask_stream() -> dict[str, float | str | None]:
    """Return GB/s of the keystream, and of ``openssl speed`` for AES-128-CTR right after."""
    stream, buffer = Keystream(bytes(16)), scratch()
    start = time.process_time()
    for _ in range(STREAM_BYTES // CHUNK_BYTES):
        stream.fill(buffer, CHUNK_BYTES)
    ours = STREAM_BYTES / (time.process_time() - start) / 1e9
    theirs = _openssl_speed()
    return {
        "mode": "CTR" if fastest_mode() is by_ctr else "GCM",
        "gigabytes_per_second": ours,
        "openssl_speed": theirs,
        "share": ours / theirs if theirs else None,
    }


def _openssl_speed() -> float | None:
    """CPU time is what ``openssl speed`` counts without ``-elapsed``."""
    if not shutil.which("openssl"):
        return None
    command = [
        "openssl",
        "speed",
        "-seconds",
        "2",
        "-bytes",
        str(CHUNK_BYTES),
        "-evp",
        "aes-128-ctr",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^AES-128-CTR\s+([\d.]+)k", done.stdout, re.MULTILINE | re.IGNORECASE)
    return float(found[1]) * 1e3 / 1e9 if found else None


def _rounds_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="A round in CPU seconds of ours, and how many times longer Flower's takes",
        caption="mask: quantise and mask alone. Silos from 10 on: one dropout.",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("values", "silos", "bits", "client s", "server s", *RATIOS, "bytes", "Flower"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['values']:.0e}",
            str(row["silos"]),
            str(row["bits"]),
            *(f"{_side(row['ours'], side):.4f}" for side in ("client", "server")),
            *(f"{ratio:.1f}x" for ratio in row["ratios"].values()),
            f"{row['bytes_per_value']:.1f}",
            f"{row['flower_bytes_per_value']:.1f}",
        )
    return table


def _side(seconds: dict[str, float], side: str) -> float:
    return sum(value for name, value in seconds.items() if name.startswith(side))


def _errors_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Relative error of a sum of 10 silos; xS: scale guessed S times too large",
        box=box.SIMPLE_HEAD,
    )
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.1e}" for v in row.values()))
    return table


if __name__ == "__main__":
    typer.run(main)
