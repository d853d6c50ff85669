from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy

from fedvemoe_app.report.manifest import git_commit, manifest


def test_versions_machine_and_what_the_caller_adds() -> None:
    made = manifest({"seeds": [1], "base": "builtin:tiny"})
    assert made["versions"]["numpy"] == numpy.__version__
    assert made["python"].startswith("3.")
    assert made["cpus"] >= 1
    assert (made["seeds"], made["base"]) == ([1], "builtin:tiny")


def test_no_commit_outside_git(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None


def test_flwr_is_not_imported_to_learn_its_version() -> None:
    code = (
        "import sys; from fedvemoe_app.report.manifest import manifest; manifest({});"
        "sys.exit('flwr' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
