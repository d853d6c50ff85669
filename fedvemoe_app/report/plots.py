"""The pictures of a run, drawn from its journal alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import plot_experts, plot_paper, plot_transfer, plot_worst, style
from fedvemoe_app.report.journal import Run

PICTURES = {
    "expert_utilization.png": plot_experts.draw,
    "worst_client.png": plot_worst.draw,
    "negative_transfer.png": plot_transfer.draw,
    "paper_figure.png": plot_paper.draw,
}


FORMATS = ("pdf", "svg", "png")
"""What a paper figure can be written as; the first two are vectors."""


def draw_all(run: Run) -> list[Path]:
    """Draw every picture into the run's ``plots`` folder and return their paths.

    Raises
    ------
    RunError
        Where the folder cannot be written.
    """
    folder = run.folder / "plots"
    with _writable(folder):
        return [style.save(draw(run), folder / name) for name, draw in PICTURES.items()]


def draw_paper(run: Run, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Draw the paper figure into ``folder`` in print quality, once per format.

    Raises
    ------
    RunError
        Where a format is not known or the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise RunError(f'--format "{name}" is not known: choose from {", ".join(FORMATS)}')
    made = plot_paper.draw(run)
    with _writable(folder):
        paths = [folder / f"paper_figure.{name}" for name in formats]
        return [style.save(made, path, plot_paper.DPI) for path in paths]


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunError(f"no picture can be written to {folder}: {error.strerror}") from error
