"""What a deployed silo takes from its own node config: its data, its base and its device.

A simulated silo is told all of this by the run. A deployed one opens no path that a run names: a
server could otherwise have it work on data that its owner never offered.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.model.bases import BUILTIN


def on_premises(config: RunConfig, node: NodeSettings) -> RunConfig:
    """Return a run's settings with every path on the silo's side replaced by the silo's own.

    Raises
    ------
    SettingError
        Without ``data-path``; without ``model-path`` where the run's base is no embedded one;
        where a path leads nowhere.
    """
    data, model = config.data, config.model
    return replace(
        config,
        data=replace(
            data,
            dataset_name=_path("data-path", node.data_path, "the folder or file of its tasks"),
            client_task_mode=DataSettings().client_task_mode,
            keyword_file="",
            assignment_file="",
            tasks_file="",
        ),
        model=replace(
            model,
            model_name=_base(model.model_name, node.model_path),
            device=node.device,
        ),
        evaluation=replace(config.evaluation, local_baseline_json=""),
    )


def _base(named: str, own: str) -> str:
    """Return the silo's own base; the run's only where it is embedded, and so built right here."""
    if not own and named in BUILTIN:
        return named
    return _path("model-path", own, f"its own folder of the base {named}")


def _path(key: str, value: str, what: str) -> str:
    if not value:
        raise SettingError(
            f"{key} is missing in the node config of this silo: a deployed silo takes no path "
            f"from a run; set {key} to {what}"
        )
    if not Path(value).is_absolute() or not Path(value).exists():
        raise SettingError(
            f"{key} = {value} of this silo: no such folder or file; set {key} to the absolute "
            f"path of {what}"
        )
    return value
