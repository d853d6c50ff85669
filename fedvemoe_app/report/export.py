"""What people carry away: every expert as a PEFT adapter with a model card, and the mixtures.

Everything is written beside ``output`` and moved there at the end: a folder that is there is whole.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import BaseModelError, RunError
from fedvemoe_app.model.adapter_files import CONFIG, read_adapter
from fedvemoe_app.model.backbone import base_folder
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.fingerprint import fingerprint
from fedvemoe_app.model.merging import merge_expert
from fedvemoe_app.report import jsonl
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.mixtures import living, prior
from fedvemoe_app.report.model_card import adapter_card, merged_card

MIXTURES = "mixture.json"
README = "README.md"


def export_run(run: Run, config: RunConfig, output: Path, *, merge: int | None = None) -> Path:
    """Write the experts of a run to a new folder, and return it.

    It holds ``slot_XX/`` (PEFT adapters), ``mixture.json``, and with ``merge`` also
    ``merged_slot_XX/``: the base with that expert merged in, for plain transformers.

    Raises
    ------
    RunError
        If ``output`` exists, the run has no experts or not the one to merge, or one is damaged.
    BaseModelError
        If the base to merge into cannot be had, or is not the run's.
    """
    adapters = living(run.folder)
    if merge is not None and merge not in adapters:
        known = ", ".join(map(str, adapters))
        raise RunError(f"{run.folder} has no expert {merge} to merge; it has {known}")
    base = _base_name(run, config, next(iter(adapters.values())))
    with _new_folder(output) as folder:
        for slot, adapter in adapters.items():
            _copy(adapter, folder / adapter.name, base)
            (folder / adapter.name / README).write_text(adapter_card(run, slot, base), "utf-8")
        jsonl.write(folder / MIXTURES, mixtures(run, adapters, base))
        if merge is not None:
            merged = folder / f"merged_{adapters[merge].name}"
            _merge(run, config, adapters[merge], merged)
            (merged / README).write_text(merged_card(run, merge, base), "utf-8")
    return output


def mixtures(run: Run, adapters: Mapping[int, Path], base: str) -> dict[str, Any]:
    """Return the content of ``mixture.json``: the prior, and each silo's belief where reported."""
    silos = {
        name: {
            "category": row.get("category"),
            "responsibilities": _by_slot(row.get("responsibilities"), adapters),
            "active": row.get("active"),
            "share": row.get("share"),
        }
        for name, row in run.last_clients.items()
    }
    return {
        "run": run.folder.name,
        "base_model": base,
        "base_fingerprint": run.manifest.get("base"),
        "experts": {str(slot): path.name for slot, path in adapters.items()},
        "prior": {str(slot): w for slot, w in prior(run, adapters).weights.items()},
        "silos": silos or None,  # None: the run reported sums only
    }


def _by_slot(values: Any, adapters: Mapping[int, Path]) -> dict[str, float] | None:
    return {str(s): values[s] for s in adapters if s < len(values)} if values else None


def _base_name(run: Run, config: RunConfig, adapter: Path) -> str:
    """Return the base as others should name it: a hub name, or where the folder lies."""
    changed = config.model.model_name != run.config.get("model-name")
    written = None if changed else read_adapter(adapter)[0].base_model_name_or_path
    name = written or locate(config.model.model_name)
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _copy(adapter: Path, target: Path, base: str) -> None:
    """Copy an adapter that can be read, with the base's name as it is now."""
    read_adapter(adapter)
    shutil.copytree(adapter, target)
    content = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    jsonl.write(target / CONFIG, {**content, "base_model_name_or_path": base})


def _merge(run: Run, config: RunConfig, adapter: Path, target: Path) -> None:
    name = locate(config.model.model_name)
    found, expected = fingerprint(base_folder(name)), run.manifest.get("base")
    if expected and Path(name).is_dir() and found != expected:
        raise BaseModelError(
            f"the base {name} has fingerprint {found[:16]}, the run was made on {expected[:16]}: "
            "an expert cannot be merged into another base; give the right one as model-name=..."
        )
    merge_expert(name, adapter, target)


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``output`` once all is written; RunError if that exists."""
    if output.exists():
        raise RunError(f"{output} exists already and is never overwritten: choose another --output")
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    except OSError as error:
        raise RunError(f"{output} cannot be written ({error.strerror}): choose another") from error
    try:
        work.chmod(0o755)  # mkdtemp's folder is for its owner alone
        yield work
        work.replace(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
