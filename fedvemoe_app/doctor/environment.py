"""Python, packages and GPU against what this package says it needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.doctor.finding import Finding, failed, ok, warning
from fedvemoe_app.model.backbone import gpus_here, has_device

PACKAGE = "fedvemoe"


def python() -> Finding:
    """Check the version of Python."""
    found, wanted = platform.python_version(), _wanted_python()
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return failed(
            f"Python {found}; this package needs {wanted}",
            "make the environment anew with another: make install PYTHON=python3.12",
        )
    return ok(f"Python {found}")


def packages() -> Iterator[Finding]:
    """Check every package that a run needs."""
    for text in requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield package(requirement)


def package(requirement: Requirement) -> Finding:
    """Check that a package is there in an accepted version."""
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return failed(f"{requirement.name} is not installed", f"pip install '{wanted}'")
    if not requirement.specifier.contains(found, prereleases=True):
        return failed(f"{requirement.name} {found}; needs {wanted}", f"pip install '{wanted}'")
    return ok(f"{requirement.name} {found}")


def gpu(settings: ModelSettings) -> Finding:
    """Check that the device of the settings is there."""
    count = gpus_here()
    if not has_device(settings.device):
        return failed(
            f"device = {settings.device}, but torch {torch.__version__} sees {count} GPUs",
            "install a CUDA build of torch and its driver (nvidia-smi), or set device=auto",
        )
    if not count:
        return ok("no GPU; device = " + settings.device + " computes on the CPU")
    if settings.device == "cpu":
        return warning(f"{count} GPUs, but device = cpu", "set device=auto to use a GPU")
    return ok(f"{count} GPUs, the first: {torch.cuda.get_device_name(0)}")


def quantisation(settings: ModelSettings) -> Finding:
    """Check what a base in 4 or 8 bits needs."""
    if not settings.bits:
        return ok("use-4bit = false, use-8bit = false: bitsandbytes is not needed")
    for text in requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.name == "bitsandbytes":
            return package(requirement)
    return failed(f"{PACKAGE} names no bitsandbytes", "pip install bitsandbytes")


def _wanted_python() -> str:
    return str(metadata(PACKAGE)["Requires-Python"])
