"""The base and the data that the settings name, and room for them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.data import DataSettings
from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.data.holdings import bank_of
from fedvemoe_app.doctor.finding import GIGABYTE, Finding, failed, ok, warning
from fedvemoe_app.errors import BaseModelError, DataError, SettingError
from fedvemoe_app.model.backbone import Backbone
from fedvemoe_app.model.base_build import bases_folder, is_built
from fedvemoe_app.model.bases import BUILTIN
from fedvemoe_app.model.family import default_row_cap
from fedvemoe_app.model.footprint import Footprint, Shape, Work, footprint
from fedvemoe_app.model.skeleton import skeleton
from fedvemoe_app.terms import slots_of

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
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


def memory(config: RunConfig, found: Backbone | None) -> Finding:
    """Check free memory, of the GPU where there is one, against what training should take."""
    settings = config.model
    place, free = _free_memory(settings.device)
    if found is None:
        return ok(f"{place}: {free / GIGABYTE:.1f} GB free, the base needs little")
    peak = training_peak(config, found, on_gpu=place != "memory")
    what = (
        f"{place}: {free / GIGABYTE:.1f} GB free; computed for training: {_gb(peak.total)}, of "
        f"which weights {_gb(peak.weights)}, experts {_gb(peak.experts)}, activations "
        f"{_gb(peak.activations)}, logits {_gb(peak.logits)}"
    )
    if peak.weights > free:
        return failed(what, "free some, set use-4bit=true, or take a smaller model-name")
    if peak.total > free:
        return warning(
            what,
            "passes shrink by themselves where they do not fit; gradient-checkpointing=true, a "
            "lower seq-len or row-cap, or use-4bit=true needs less",
        )
    return ok(what)


def training_peak(config: RunConfig, found: Backbone, *, on_gpu: bool) -> Footprint:
    """Return what a silo's training step holds at its peak, by ``model.footprint``."""
    settings, shape = config.model, Shape.of(found.model)
    m, length = config.em.top_m, config.data.seq_len
    device = torch.device("cuda" if on_gpu else "cpu")
    cap = config.rounds.row_cap or default_row_cap(device)
    sequences = min(config.rounds.batch_size, max(1, cap // (length * m)))
    work = Work(
        rows=sequences * length * m,
        rank=settings.lora_rank,
        resident=slots_of(config),
        trained=m,
        value=BYTES.get(settings.dtype, 2.0 if on_gpu or settings.use_4bit else 4.0),
        bits=4 if settings.use_4bit else 0,
        checkpointed=settings.gradient_checkpointing,
        on_gpu=on_gpu,
        packed=length if config.rounds.packing == "auto" else 0,
    )
    return footprint(shape, work)


def disk(config: RunConfig, found: Backbone | None) -> Finding:
    """Check room for results: adapters and state of all slots of the bank."""
    place = _nearest(Path(config.output.log_dir))
    free = shutil.disk_usage(place).free
    layers = _linear(found.model) if found else ()
    rows = sum(layer.in_features + layer.out_features for layer in layers)
    need = KEPT * FLOAT_BYTES * config.em.k_max * config.model.lora_rank * rows
    what = f"disk at {place}: {free / GIGABYTE:.1f} GB free, the bank needs {_gb(need)}"
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


def _free_memory(device: str) -> tuple[str, float]:
    if device != "cpu" and torch.cuda.is_available():
        return "GPU", float(torch.cuda.mem_get_info()[0])
    return "memory", float(psutil.virtual_memory().available)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    absolute = folder.expanduser().absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def _gb(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB" if size else "little"
