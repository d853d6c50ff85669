"""The base and the data that the settings name, and room on the disk for results."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.data.holdings import bank_of
from fedvemoe_app.doctor.finding import GIGABYTE, Finding, failed, gigabytes, ok, warning
from fedvemoe_app.errors import BaseModelError, DataError, SettingError
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.base_build import bases_folder, is_built
from fedvemoe_app.model.bases import BUILTIN
from fedvemoe_app.model.skeleton import skeleton

FLOAT_BYTES = 4
KEPT = 2
"""Copies of the bank on disk: the adapters, and the state of the run."""


def base(settings: ModelSettings) -> tuple[Finding, Backbone | None]:
    """Check that the base can be had; return its skeleton (None for an embedded one)."""
    name = settings.model_name
    if name in BUILTIN:
        return _embedded(name), None
    try:
        found = skeleton(name)
    except BaseModelError as error:
        return failed(f"base {name}: {error}", "set model-name to a folder or a hub name"), None
    for file in sorted(Path(name).glob("*.safetensors")):
        if not _readable(file):
            fix = "copy the base again: this file is damaged or cut short"
            return failed(f"weights {file} cannot be read", fix), None
    return ok(f"base {name}, fingerprint {found.fingerprint[:16]}"), found


def _embedded(name: str) -> Finding:
    """Check the place where an embedded base is built, where it is not there already."""
    try:
        if is_built(BUILTIN[name]):  # type: ignore[arg-type]
            return ok(f"base {name}: built, in {bases_folder()}")
        with tempfile.TemporaryFile(dir=bases_folder()):
            return ok(f"base {name}: built on first use, a few minutes on a CPU")
    except (BaseModelError, OSError) as error:
        fix = "set FEDVEMOE_CACHE to a folder that this user may write to"
        return failed(f"base {name} cannot be built: {error}", fix)


def _readable(file: Path) -> bool:
    """Whether a file of weights is whole, as its header says."""
    try:
        with safe_open(file, "pt") as weights:
            return bool(weights.keys())
    except (OSError, SafetensorError):
        return False


def disk(config: RunConfig, found: Backbone | None) -> Finding:
    """Check room for results: adapters and state of all slots of the bank."""
    place = _nearest(Path(config.output.log_dir))
    free = shutil.disk_usage(place).free
    layers = _linear(found.model) if found else ()
    rows = sum(layer.in_features + layer.out_features for layer in layers)
    need = KEPT * FLOAT_BYTES * config.em.k_max * config.model.lora_rank * rows
    what = f"disk at {place}: {free / GIGABYTE:.1f} GB free, the bank needs {gigabytes(need)}"
    if need > free:
        return failed(what, "set log-dir to another disk, or lower k-max or lora-rank")
    return ok(what)


def tasks(settings: DataSettings, seed: int) -> Finding:
    """Check that the task bank can be read."""
    try:
        bank = bank_of(settings, seed)
    except (DataError, SettingError) as error:
        return failed(f"tasks: {error}", "fedvemoe data inspect dataset-name=... says more")
    what = f"{settings.dataset_name}: {len(bank.catalogue)} tasks"
    if bank.problems:
        said = f"{what}, {len(bank.problems)} rows left out, the first: {bank.problems[0]}"
        return warning(said, "mend those rows, or do without them")
    return ok(what)


def writable(key: str, folder: str) -> Finding:
    """Check that files can be written to the folder that a key names."""
    place = _nearest(Path(folder))
    try:
        with tempfile.TemporaryFile(dir=place):
            return ok(f"{key} {folder} can be written")
    except OSError as error:
        return failed(
            f"{key} {folder} cannot be written: {error.strerror}",
            f"make {place} writable for this user, or set {key}",
        )


def _linear(model: nn.Module) -> Iterator[nn.Linear]:
    return (layer for layer in model.modules() if isinstance(layer, nn.Linear))


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    absolute = folder.expanduser().absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())
