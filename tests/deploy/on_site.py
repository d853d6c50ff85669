"""A consortium's folder made for a test, and its silos' node configs put into a grid."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.tasklist import read_task_list
from fedvemoe_app.deploy.site import Site, prepare
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from tests.federation import SILOS, Settings


def site_of(folder: Path, settings: Settings) -> tuple[Site, Settings]:
    """Lay out a consortium for a run; return it and the settings that its server gets."""
    site, config = prepare(folder, RunConfig.from_flat(settings), SILOS)
    return site, config.to_flat()


def node_configs(site: Site) -> list[dict[str, Any]]:
    return [tomllib.loads(site.node_config(silo).read_text()) for silo in site.silos]


def deployed(site: Site, **changes: bool | int | float | str) -> Callable[[InProcessGrid], None]:
    """Return what makes a grid's silos deployed ones, each with its own node config.

    They work in this process unless ``changes`` ask for a worker.
    """

    def prepare_grid(grid: InProcessGrid) -> None:
        more = {key.replace("_", "-"): value for key, value in changes.items()}
        for context, node_config in zip(grid.contexts.values(), node_configs(site), strict=True):
            context.node_config = {**node_config, "worker": False, **more}

    return prepare_grid


def simulated(site: Site, settings: Settings, folder: Path) -> Settings:
    """Return settings of a simulation on the very files that a site's silos hold."""
    holds = {silo: sorted(tasks_of(site.folder / "data" / silo)) for silo in site.silos}
    folder.mkdir()
    (folder / "map.json").write_text(json.dumps(holds))
    return {
        **settings,
        "dataset-name": str(site.folder / "data"),
        "client-task-mode": "explicit",
        "assignment-file": str(folder / "map.json"),
        "log-dir": str(folder),
        "tasks-file": "",
        "roster": "",
        "consortium-key": "",
    }


def tasks_of(holding: Path) -> set[str]:
    rows = (holding / "train.jsonl").read_text().splitlines()
    return {json.loads(row)["task_name"] for row in rows}


def listed(site: Site) -> list[str]:
    return [*read_task_list(str(site.folder / "server" / "tasks.txt"))]
