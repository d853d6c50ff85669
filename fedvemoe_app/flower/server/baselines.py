"""Local baselines as a file: what strategy local leaves behind, and other runs are held against."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.evaluation.transfer import Baselines
from fedvemoe_app.report import jsonl

FILE = "local_baselines.json"


def check_target(out_json: str) -> None:
    """Refuse an ``out-json`` that cannot be written, before any work."""
    path = Path(out_json)
    if out_json and (path.is_dir() or (path.parent.exists() and not path.parent.is_dir())):
        raise SettingError(f"out-json = {out_json} cannot be written: name a file in a folder")


def write_baselines(baselines: Baselines, folder: Path, out_json: str) -> None:
    """Write the baselines into the run's ``folder``, and to ``out_json`` unless it is empty.

    Raises
    ------
    RunError
        Where no silo has reported any.
    """
    if not baselines.clients:
        raise RunError("no silo reported its figures: local baselines need reporting = full")
    jsonl.write(folder / FILE, baselines.to_json())
    if out_json:
        Path(out_json).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / FILE, out_json)
