"""Every setting of a run, its default and its bounds: the only reader of the run configuration.

pyproject's ``[tool.flwr.app.config]`` and docs/configuration.md are generated from this tree
(``fedvemoe settings``), and a test keeps the three equal. Inside the package a function
takes plain values or the one group it works from, never the tree and a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.config_groups.dp import DpSettings
from fedvemoe_app.config_groups.em import EmSettings
from fedvemoe_app.config_groups.lifecycle import LifecycleSettings
from fedvemoe_app.config_groups.method import MethodSettings
from fedvemoe_app.config_groups.model import ModelSettings, device_fault
from fedvemoe_app.config_groups.output import EvaluationSettings, OutputSettings
from fedvemoe_app.config_groups.rounds import RoundSettings
from fedvemoe_app.errors import SettingError
from fedvemoe_app.settings import flatten, read

MACHINE = (
    *("model-name", "base-model", "dtype", "use-4bit", "use-8bit"),
    *("device", "torch-threads", "row-cap"),
)
"""Settings that say where and how the base is loaded; all others belong to the run."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of one run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    rounds: RoundSettings = field(default_factory=RoundSettings)
    em: EmSettings = field(default_factory=EmSettings)
    lifecycle: LifecycleSettings = field(default_factory=LifecycleSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    dp: DpSettings = field(default_factory=DpSettings)

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> RunConfig:
        """Read and check a flat run configuration; raises SettingError."""
        config = _with_alias(read(cls, flat))
        _check(config)
        return config

    def to_flat(self) -> dict[str, bool | int | float | str]:
        """Return the flat form: ``RunConfig.from_flat(c.to_flat()) == c``."""
        return flatten(self)


def _with_alias(config: RunConfig) -> RunConfig:
    """Let ``base-model`` stand for ``model-name``, but not against it."""
    alias, name = config.model.base_model, config.model.model_name
    if not alias:
        return config
    if name not in (alias, ModelSettings().model_name):
        raise SettingError(
            f'base-model = "{alias}" and model-name = "{name}" disagree: set only one of them'
        )
    return replace(config, model=replace(config.model, model_name=alias, base_model=""))


def _check(config: RunConfig) -> None:
    """Refuse settings that are fine alone but not together."""
    em, data, output = config.em, config.data, config.output
    fault = device_fault(config.model.device)
    rules = [
        (em.k_init > em.k_max, f"k-init = {em.k_init} exceeds k-max = {em.k_max}: raise k-max"),
        (em.top_m > em.k_max, f"top-m = {em.top_m} exceeds k-max = {em.k_max}: lower top-m"),
        (
            data.client_task_mode == "explicit" and not data.assignment_file,
            'client-task-mode = "explicit" needs assignment-file, a map of silos to tasks',
        ),
        (
            data.client_task_mode == "keyword" and not data.categories,
            "keyword-categories is empty: name at least one, such as translation",
        ),
        (
            config.lifecycle.prune_worth > config.lifecycle.birth_worth,
            f"prune-worth = {config.lifecycle.prune_worth} exceeds birth-worth = "
            f"{config.lifecycle.birth_worth}: an expert would be born only to be pruned",
        ),
        (bool(fault), fault),
        (
            config.model.use_4bit and config.model.use_8bit,
            "use-4bit = true and use-8bit = true: a base is held in one way; set one of them to "
            "false (4 bits take half the memory, 8 bits round less)",
        ),
        (not config.model.targets, "target-modules is empty: use all-linear or name layers"),
        (not config.model.model_name, "model-name is empty: use builtin:tiny or name a model"),
        (
            "/" in output.run_name or output.run_name in (".", ".."),
            f'run-name = "{output.run_name}": must be one folder name; log-dir is the path',
        ),
    ]
    for broken, message in rules:
        if broken:
            raise SettingError(message)
