"""The three pictures of a run, drawn from its journal alone."""

from __future__ import annotations

from pathlib import Path

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import plot_experts, plot_transfer, plot_worst, style
from fedvemoe_app.report.journal import Run

PICTURES = {
    "expert_utilization.png": plot_experts.draw,
    "worst_client.png": plot_worst.draw,
    "negative_transfer.png": plot_transfer.draw,
}


def draw_all(run: Run) -> list[Path]:
    """Draw every picture into the run's ``plots`` folder and return their paths.

    Raises
    ------
    RunError
        Where the folder cannot be written.
    """
    folder = run.folder / "plots"
    try:
        folder.mkdir(exist_ok=True)
        return [style.save(draw(run), folder / name) for name, draw in PICTURES.items()]
    except OSError as error:
        raise RunError(f"no picture can be written to {folder}: {error.strerror}") from error
