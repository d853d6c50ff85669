"""Which runs may stand side by side: those on the same tasks, base and silos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.errors import RunError
from fedvemoe_app.report.journal import CONFIG, Run, read_run
from fedvemoe_app.settings import leaves

OF_THE_BANK = frozenset({"dataset-name", "streaming"})  # told apart by the bank's fingerprint
OF_THE_TEST = ("eval-examples", "generate-examples", "max-new-tokens")


def collect(paths: Sequence[Path]) -> list[Run]:
    """Read the runs in ``paths``, each the folder of a run or a folder of such folders.

    Raises
    ------
    RunError
        Where a path holds no run, or fewer than two runs have been evaluated.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _folders(path))
    runs = [run for run in map(read_run, folders) if run.rounds]
    if len(runs) < 2:
        raise RunError(
            f"a comparison needs two or more runs with a round, not {len(runs)}: name their "
            "folders, or the folder that holds them, such as runs/"
        )
    return runs


def require_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in silos, base, test or, for the same seed, in the tasks.

    Raises
    ------
    RunError
        Naming what differs and between which runs. What a run does not tell is not held
        against it.
    """
    keys = [leaf.key for leaf in leaves(DataSettings) if leaf.key not in OF_THE_BANK]
    for name, value in _facts([*keys, *OF_THE_TEST]):
        _require_same(name, runs, value)
    for seed in dict.fromkeys(run.config.get("seed") for run in runs):
        peers = [run for run in runs if run.config.get("seed") == seed]
        _require_same("the task bank", peers, lambda run: run.manifest.get("bank"))


def _folders(path: Path) -> Iterator[Path]:
    if (path / CONFIG).is_file():
        yield path
        return
    found = sorted(file.parent for file in path.glob(f"*/{CONFIG}"))
    if not found:
        raise RunError(f"{path} is no run and holds none: no {CONFIG} in it or one level below")
    yield from found


def _facts(settings: Sequence[str]) -> Iterator[tuple[str, Callable[[Run], Any]]]:
    yield "the number of silos", lambda run: run.manifest.get("silos")
    yield "the base model", lambda run: run.manifest.get("base")
    for key in settings:
        yield key, lambda run, key=key: run.config.get(key)  # type: ignore[misc]


def _require_same(name: str, runs: Sequence[Run], value: Callable[[Run], Any]) -> None:
    told = [(run, value(run)) for run in runs if value(run) is not None]
    for run, other in told[1:]:
        first, expected = told[0]
        if other != expected:
            raise RunError(
                f"{name} differs: {_shown(expected)} in {first.folder.name}, {_shown(other)} in "
                f"{run.folder.name}. Compare runs of the same test, or add --force"
            )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}\N{HORIZONTAL ELLIPSIS}"
