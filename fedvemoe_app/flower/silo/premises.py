"""What a deployed silo takes from its own node config: its data, its base and its device.

A simulated silo is told all of this by the run. A deployed one opens no path that a run names: a
server could otherwise have it work on data that its owner never offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.errors import SettingError
from fedvemoe_app.model.bases import BUILTIN

NodeConfig = Mapping[str, bool | int | float | str]


def on_premises(config: RunConfig, node_config: NodeConfig) -> RunConfig:
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
            dataset_name=_path(node_config, "data-path", "the folder or file of its tasks"),
            client_task_mode=DataSettings().client_task_mode,
            keyword_file="",
            assignment_file="",
            tasks_file="",
        ),
        model=replace(
            model,
            model_name=_base(model.model_name, node_config),
            device=str(node_config.get("device", ModelSettings().device)),
        ),
        evaluation=replace(config.evaluation, local_baseline_json=""),
    )


def state_path(node_config: NodeConfig) -> Path | None:
    """Return where a deployed silo keeps what must outlive a run; None where it has no place.

    Raises
    ------
    SettingError
        Where ``state-path`` is not absolute.
    """
    value = str(node_config.get("state-path", ""))
    if value and not Path(value).is_absolute():
        raise SettingError(
            f"state-path = {value} of this silo: set the absolute path of a folder on its disk"
        )
    return Path(value) if value else None


def _base(named: str, node_config: NodeConfig) -> str:
    """Return the silo's own base; the run's only where it is embedded, and so built right here."""
    if "model-path" not in node_config and named in BUILTIN:
        return named
    return _path(node_config, "model-path", f"its own folder of the base {named}")


def _path(node_config: NodeConfig, key: str, what: str) -> str:
    value = str(node_config.get(key, ""))
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
