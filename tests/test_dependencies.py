"""What is imported is declared: nothing is taken for granted because something else brings it."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_structure import ROOT, imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HERE = {"fedvemoe_app", "tests", "benchmarks", "__future__"}
SOURCES = {
    "fedvemoe_app": [],
    "tests": ["dev"],
    "benchmarks": ["dev"],
}
OPTIONAL = {"bitsandbytes", "tensorboard", "wandb", "mlflow", "dp-accounting", "atheris"}
"""Imported only where it is asked for; each is an extra of its own."""


def declared(extras: list[str]) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][one] for one in extras)]
    return {canonicalize_name(Requirement(text).name) for each in lists for text in each}


@pytest.mark.parametrize("folder", SOURCES)
def test_every_import_is_a_declared_dependency(folder: str) -> None:
    known = declared(SOURCES[folder]) | OPTIONAL
    found = packages_distributions()
    for file in sorted((ROOT / folder).rglob("*.py")):
        for module in imports(file):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in HERE or not top:
                continue
            owners = {canonicalize_name(name) for name in found.get(top, [top])}
            assert owners & known, f"{file.relative_to(ROOT)} imports {top}, which is not declared"


def test_every_extra_that_the_package_imports_is_declared() -> None:
    extras = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs")]
    assert declared(extras) - declared([]) == OPTIONAL
