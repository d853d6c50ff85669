"""What a run was made with: versions, machine and code, for whoever repeats it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fedvemoe_app

PACKAGES = ("fedvemoe", "flwr", "torch", "transformers", "peft", "numpy")


def manifest(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, platform and git commit, and what the caller adds (seeds, fingerprints)."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git_commit": git_commit(Path(fedvemoe_app.__file__).parent),
        **extra,
    }


def git_commit(folder: Path) -> str | None:
    """Return the last commit that touched ``folder``; None where git does not track it."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
