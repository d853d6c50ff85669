"""One thin writer per tracker. Each loads its library only when it is made."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = "fedvemoe"
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000  # MLflow's limits on one request


class Writer(Protocol):
    """What a tracker must be able to do."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of one round."""

    def say(self, step: int, text: str) -> None:
        """Write a sentence about one round."""

    def close(self) -> None:
        """Write what is still held."""


class TensorBoard:
    """Event files in the run's folder, ``tensorboard/``; nothing is sent."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        table = "".join(f"| {key} | {value} |\n" for key, value in config.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}", 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write and flush, so that a viewer sees the round at once."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def say(self, step: int, text: str) -> None:
        """Write a text."""
        self._writer.add_text("events", text, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run: Any = wandb.init(
            project=project, name=folder.name, dir=str(folder), config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step."""
        self._run.log(dict(values), step=step)

    def say(self, step: int, text: str) -> None:
        """Log a text."""
        self._run.log({"event": text}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow on ``MLFLOW_TRACKING_URI``, else a database in the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run: str = self._client.create_run(experiment, run_name=folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in config.items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            part = params[start : start + _PARAMS_AT_ONCE]
            self._client.log_batch(self._run, params=part)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step, under names that MLflow accepts."""
        now = int(1000 * time.time())
        metrics = [
            self._metric(re.sub(r"[^\w\-. /]", "_", key), value, now, step)
            for key, value in values.items()
        ]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            part = metrics[start : start + _METRICS_AT_ONCE]
            self._client.log_batch(self._run, metrics=part)

    def say(self, step: int, text: str) -> None:
        """Keep a sentence as a tag; MLflow has no other place for one."""
        self._client.set_tag(self._run, f"event.{step}.{time.time_ns()}", text)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


WRITERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
