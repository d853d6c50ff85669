"""The pictures of a run, drawn from its journal alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import plot_experts, plot_paper, plot_transfer, plot_worst, style
from fedvemoe_app.report.journal import Run

PICTURES = {
    "expert_utilization": plot_experts.draw,
    "worst_client": plot_worst.draw,
    "negative_transfer": plot_transfer.draw,
    "paper_figure": plot_paper.draw,
}
ALL = "all"
FORMATS = ("pdf", "svg", "png")
"""What a picture can be written as for print; the first two are vectors."""


def draw_all(run: Run) -> list[Path]:
    """Draw every picture for a screen into the run's ``plots`` folder and return their paths.

    Raises
    ------
    RunError
        Where the folder cannot be written.
    """
    folder = run.folder / "plots"
    with _writable(folder):
        return [style.save(draw(run), folder / f"{name}.png") for name, draw in PICTURES.items()]


def draw_print(
    run: Run,
    folder: Path,
    *,
    pictures: Sequence[str] = ("paper_figure",),
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Draw pictures into ``folder`` in print quality, each once per format.

    Raises
    ------
    RunError
        Where a picture or a format is not known, or the folder cannot be written.
    """
    _require("--picture", pictures, (*PICTURES, ALL))
    _require("--format", formats, FORMATS)
    names = list(PICTURES) if ALL in pictures else list(dict.fromkeys(pictures))
    made = {name: PICTURES[name](run) for name in names}
    with _writable(folder):
        return [
            style.save(made[name], folder / f"{name}.{kind}", style.PRINT_DPI)
            for name in names
            for kind in formats
        ]


def _require(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise RunError(f'{option} "{name}" is not known: choose from {", ".join(known)}')
    if not given:
        raise RunError(f"{option} names nothing: choose from {', '.join(known)}")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunError(f"no picture can be written to {folder}: {error.strerror}") from error
