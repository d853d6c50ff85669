"""The shape of the project: who imports whom, what is shipped, and one truth about settings."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedvemoe_app.cli.reference import settings_table
from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.programs.manifest import app_manifest, app_tables
from fedvemoe_app.overrides import gather

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fedvemoe_app"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 260

LAYERS = {
    **dict.fromkeys(
        ("fedvemoe_app", "errors", "jsontext", "seeds", "settings", "overrides", "config"), 0
    ),
    "config_groups": 0,
    **dict.fromkeys(("em", "secagg", "dp", "worker"), 1),
    **dict.fromkeys(("data", "strategies"), 2),
    "model": 3,
    **dict.fromkeys(("evaluation", "report", "silo", "personal", "flower"), 4),
    **dict.fromkeys(("terms", "served", "onboarding"), 4),
    **dict.fromkeys(("server_app", "client_app", "cli", "api", "deploy", "doctor"), 5),
}
"""The layer of each package or module; it imports from lower layers and from itself."""

SIDEWAYS = {
    ("settings", "errors"): "a wrong setting is an error for the user",
    ("config", "errors"): "a wrong setting is an error for the user",
    ("config", "config_groups"): "the settings are one tree of groups",
    ("config_groups", "settings"): "the settings are declared in the language of settings",
    ("config", "settings"): "the settings are declared in the language of settings",
    ("overrides", "errors"): "a wrong word is an error for the user",
    ("overrides", "settings"): "a word is read in the type of its setting",
    ("silo", "terms"): "a silo works under the settings of its run",
    ("onboarding", "terms"): "a newcomer is assessed as silos are",
    ("served", "terms"): "texts are batched as in training",
    ("flower", "terms"): "the server's lifecycle goes by the same thresholds",
    ("silo", "evaluation"): "a silo scores its own test examples",
    ("silo", "personal"): "a silo may keep an expert of its own",
    ("flower", "personal"): "the own expert lies in the silo's memory",
    ("flower", "silo"): "a message is answered by a silo's step",
    ("flower", "evaluation"): "scores are packed, summed and read back",
    ("flower", "report"): "the server keeps the journal of its run",
    ("served", "silo"): "experts on their base are made as a silo makes them",
    ("served", "evaluation"): "a served mixture is scored as a silo scores it",
    ("served", "report"): "what a silo believed is read from the journal",
    ("onboarding", "served"): "a silo that was not there meets the experts of a run",
    ("onboarding", "evaluation"): "it is scored as every silo is",
    ("onboarding", "report"): "its mixture has the form of the others",
    ("report", "evaluation"): "counts of silos and local baselines are read as they were written",
    ("cli", "api"): "a command calls one thing",
    ("cli", "deploy"): "a command calls one thing",
    ("cli", "doctor"): "a command makes the checks and shows them",
}
"""The steps within a layer, each with its reason."""

EDGE = {"code": 0, "shelf": 0, "messages": 1, "sums": 2, "silo": 3, "resume": 3, "server": 4}
"""The same within the Flower edge; its programs stand apart."""

ALGORITHM = {"torch", "numpy"}
FLOWER_EDGE = {"flower", "server_app", "client_app"}
FLOWER_ARITHMETIC = "fedvemoe_app.strategies.flower_rule"
"""The one module elsewhere that knows Flower: its strategies as server rules."""


def module_of(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[str]:
    """Yield every module that a file imports, at its top, inside a function, or by name."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from submodules or {module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ast.literal_eval(node.args[0]).split(",")


MODULES = {module_of(file): file for file in FILES}


def part_of(module: str) -> str:
    """Return the package or top-level module that a module of ours belongs to."""
    return [*module.split("."), ""][1] or "fedvemoe_app"


def ours(file: Path) -> list[str]:
    return [name for name in imports(file) if name.split(".")[0] == "fedvemoe_app"]


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_down(file: Path) -> None:
    mine = part_of(module_of(file))
    for name in ours(file):
        other = part_of(name)
        lower = LAYERS[other] < LAYERS[mine]
        assert lower or other == mine or (mine, other) in SIDEWAYS, f"{mine} imports {name}"


def room_of(module: str) -> str:
    """Return the room of the Flower edge that a module belongs to; "" for its face and others."""
    return [*module.removeprefix("fedvemoe_app.flower").split("."), ""][1]


@pytest.mark.parametrize("file", sorted((PACKAGE / "flower").rglob("*.py")), ids=module_of)
def test_imports_point_down_within_the_flower_edge(file: Path) -> None:
    mine = room_of(module_of(file))
    edge = [name for name in ours(file) if name.startswith("fedvemoe_app.flower.")]
    for other in {room_of(name) for name in edge} - {mine}:
        assert EDGE[other] < EDGE[mine], f"{mine} imports {other}"


def test_every_sideways_step_is_still_taken() -> None:
    taken = {(part_of(module_of(file)), part_of(name)) for file in FILES for name in ours(file)}
    assert set(SIDEWAYS) <= taken


def test_what_is_imported_exists() -> None:
    assert {name for file in FILES for name in ours(file)} <= MODULES.keys()


def test_no_two_packages_need_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        mine = part_of(module_of(file))
        graph.setdefault(mine, set()).update({part_of(name) for name in ours(file)} - {mine})
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_only_the_edge_knows_flower(file: Path) -> None:
    if part_of(module_of(file)) not in FLOWER_EDGE and module_of(file) != FLOWER_ARITHMETIC:
        assert "flwr" not in {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", sorted((PACKAGE / "em").glob("*.py")), ids=module_of)
def test_the_algorithm_knows_tensors_and_nothing_of_the_world(file: Path) -> None:
    roots = {name.split(".")[0] for name in imports(file)} - {"fedvemoe_app"}
    foreign = roots - set(sys.stdlib_module_names)
    assert foreign <= ALGORITHM
    assert not roots & {"os", "io", "pathlib", "json", "shutil", "subprocess", "socket"}
    assert "open(" not in file.read_text()


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_absolute_in_its_imports_and_short(file: Path) -> None:
    relative = [n for n in ast.walk(tree(file)) if isinstance(n, ast.ImportFrom) and n.level]
    assert relative == []
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_defaults_have_one_truth_in_three_places() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert app_tables() in text, "copy the output of flower.programs.manifest.app_tables()"
    assert pyproject()["tool"]["flwr"]["app"]["config"] == RunConfig().to_flat()
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == settings_table(), "run: fedvemoe settings > docs/configuration.md"


def test_the_generated_manifest_says_the_same_of_the_app() -> None:
    mine, theirs = pyproject(), tomllib.loads(app_manifest())
    assert theirs["tool"]["flwr"] == mine["tool"]["flwr"]
    for key in ("name", "version", "license", "description"):
        assert theirs["project"][key] == mine["project"][key]


def test_the_preset_holds_known_settings_with_values_that_are_accepted() -> None:
    config = RunConfig.from_flat(gather(RunConfig, ROOT / "simulation.toml", []))
    assert (config.em.k_init, config.em.k_max, config.em.top_m) == (3, 12, 2)
    assert (config.data.seq_len, config.model.use_4bit) == (2048, True)
    assert config.model.model_name == "Qwen/Qwen2.5-7B-Instruct"


def test_the_bundle_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    app = tmp_path / "checkout"
    leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs")
    shutil.copytree(ROOT, app, ignore=leave)
    if (ROOT / ".gitignore").is_file():
        shutil.copy(ROOT / ".gitignore", app)
    for secret in (
        "runs/one/config.json",
        "runs/one/experts/slot_00/adapter_config.json",
        "secrets.toml",
        "keys/silo.json",
        "notes.md",
        "scratch.py",
        "fedvemoe_app/token.json",
        "fedvemoe_app/secrets.toml",
    ):
        file = app / secret
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as fab:
        found = set(fab.namelist())
    shipped = {file.relative_to(ROOT).as_posix() for file in FILES}
    assert found == shipped | {"pyproject.toml", ".info/CONTENT"}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_flowers_own_installation_is_told_to_leave_every_dependency_alone() -> None:
    content = pyproject()
    project, overrides = content["project"], content["tool"]["uv"]["override-dependencies"]
    extras = [one for group in project["optional-dependencies"].values() for one in group]
    assert names(overrides) == names([*project["dependencies"], *extras])
    never = [Requirement(text).marker for text in overrides]
    assert not any(marker is None or marker.evaluate() for marker in never)


def test_flowers_own_installation_finds_nothing_to_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [
        *(sys.executable, "-m", "uv", "sync", "--offline", "--python", sys.executable),
        *("--no-install-project", "--no-install-package", "flwr", "--inexact"),
    ]
    environment = {
        **os.environ,
        "UV_PROJECT_ENVIRONMENT": str(tmp_path / "environment"),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\n + " not in done.stderr
    packages = (tmp_path / "environment").glob("lib/python*/site-packages/*.dist-info")
    assert list(packages) == []
