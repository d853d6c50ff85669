"""Fixtures of the whole suite: one CPU thread, a cache of its own, and a small federation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fedvemoe_app.report.journal import Run
from tests.federation import SMALL, Settings, base_tasks, write_tasks

LONG = ("test_simulation", "test_scenarios", "test_structure_run", "test_structure_faults")
"""Files of few and long tests: they come first, or one core works on them alone in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files come first (``--no-loadscope-reorder`` keeps this order)."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The cores belong to several processes, and sums must not depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base that has learned little more than the words."""
    from fedvemoe_app.model.base_build import build_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDVEMOE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return build_base(base_tasks(), size="tiny", steps=15)


@pytest.fixture(scope="session")
def small_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the houses' task files."""
    return write_tasks(tmp_path_factory.mktemp("houses"))


@pytest.fixture(scope="session")
def settings_in(small_base: Path, small_bank: Path) -> Callable[..., Settings]:
    """Make the settings of a small run with results in the given folder."""
    names = (f"run-{number}" for number in itertools.count())

    def settings(folder: Path, **changes: bool | int | float | str) -> Settings:
        places = {"model-name": str(small_base), "dataset-name": str(small_bank)}
        output = {"log-dir": str(folder), "run-name": next(names)}
        changed = {key.replace("_", "-"): value for key, value in changes.items()}
        return {**SMALL, **places, **output, **changed}

    return settings


@pytest.fixture
def settings(tmp_path: Path, settings_in: Callable[..., Settings]) -> Callable[..., Settings]:
    """Make the settings of a small run in this test's folder."""
    return lambda **changes: settings_in(tmp_path, **changes)


@pytest.fixture(scope="session")
def ended_run(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A small run that has ended. Read it, never write to it."""
    from tests.federation import federate

    return federate(settings_in(tmp_path_factory.mktemp("ended")))


@pytest.fixture(scope="session", autouse=True)
def quiet_children() -> Iterator[None]:
    """Processes that tests start use one thread each and ask nobody for updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        yield
