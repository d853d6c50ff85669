"""What noise costs: the perplexity of one expert after a few rounds, at several multipliers z.

``python -m benchmarks.dp 24 off central:0.001 central:0.2 local:0.2``: silos, then forms of noise.
Everything runs in this process on the embedded bank; sums are those of ``privacy = sim``.
"""

from __future__ import annotations

import sys
import tempfile
from unittest.mock import patch

import torch

from fedvemoe_app.client_app import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.report.journal import read_run

SETTINGS: dict[str, bool | int | float | str] = {
    "torch-threads": 1,
    "privacy": "sim",
    "c-min": 1,
    "reporting": "aggregate",
    "start": "none",
    "silo-weight": "equal",
    "lifecycle": False,
    "lora-factors": "alternate",
    "k-init": 1,
    "lora-rank": 2,
    "lora-alpha": 4.0,
    "target-modules": "q_proj,v_proj",
    "num-server-rounds": 6,
    "local-steps": 8,
    "eval-every": 6,
    "eval-examples": 20,
    "generate-examples": 0,
    "client-task-mode": "round-robin",
    "tasks-per-category": 1,
    "dp-evaluation": True,
    "dp-clip": 1.5,
}


def perplexities(silos: int, form: str, folder: str) -> tuple[list[float], float | None]:
    """Return the perplexities before and after a run with this form of noise, and its epsilon."""
    dp, _, noise = form.partition(":")
    changes = {"dp": dp, "log-dir": folder, "run-name": form.replace(":", "-")}
    settings = {**SETTINGS, **changes, **({"dp-noise": float(noise)} if noise else {})}
    with patch("fedvemoe_app.flower.server.run.draw_all"):
        grid = InProcessGrid(app, settings, silos)
        rows = read_run(run(grid, RunConfig.from_flat(settings))).rounds
    return [row["ppl"] for row in rows if row["ppl"]], rows[-1].get("epsilon")


def main() -> None:
    """Print one line for each form of noise."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for form in sys.argv[2:]:
            (first, last), epsilon = perplexities(int(sys.argv[1]), form, folder)
            spent = f"{epsilon:.4g}" if epsilon else "-"
            print(f"{form:15} ppl {first:.2f} -> {last:.2f}   epsilon {spent}", flush=True)


if __name__ == "__main__":
    main()
