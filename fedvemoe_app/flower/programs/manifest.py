"""The app's own description for Flower: what pyproject.toml says of it, generated in one place."""

from __future__ import annotations

import json

import fedvemoe_app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.settings import leaves

DESCRIPTION = (
    "Cross-silo, cross-task federated fine-tuning of language models: variational EM over a "
    "shared bank of LoRA experts, as a Flower app"
)


def toml_value(value: bool | int | float | str) -> str:
    """Return a TOML literal; JSON's strings, numbers and booleans are TOML's as well."""
    return json.dumps(value, ensure_ascii=False)


def config_table() -> str:
    """Return the ``[tool.flwr.app.config]`` table: every setting with its default, by group."""
    lines = ["[tool.flwr.app.config]"]
    group = ""
    for leaf in leaves(RunConfig):
        if leaf.group != group:
            group = leaf.group
            lines.append(f"# {group}")
        lines.append(f"{leaf.key} = {toml_value(leaf.default)}")
    return "\n".join(lines) + "\n"


def app_tables() -> str:
    """Return the ``[tool.flwr.app]`` tables: publisher, contents, the two apps and the settings."""
    return f"""[tool.flwr.app]
publisher = "fedvemoe"
fab-include = ["fedvemoe_app/**/*.py"]

[tool.flwr.app.components]
serverapp = "fedvemoe_app.server_app:app"
clientapp = "fedvemoe_app.client_app:app"

{config_table()}"""


def app_manifest() -> str:
    """Return a pyproject.toml with all that Flower needs, for an app laid out to be run."""
    return f"""[project]
name = "fedvemoe"
version = "{fedvemoe_app.__version__}"
description = "{DESCRIPTION}"
license = "Apache-2.0"
dependencies = []

{app_tables()}"""
