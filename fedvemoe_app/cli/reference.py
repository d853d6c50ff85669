"""The reference of settings, generated from the declarations: docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterable

from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.programs.manifest import toml_value
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.settings import Leaf, leaves

HEADER = """# Settings

Give them as `key=value` to `fedvemoe run`, in a TOML file with `--run-config FILE`, or to
`flwr run . --run-config 'key=value'` (texts in quotes). This page is made by
`fedvemoe settings`. What a silo's owner decides is [at its end](#a-silos-node-config).
"""
NODE = """
## A silo's node config

For `flower-supernode --node-config FILE`, as TOML: [Between machines](deployment.md#4-a-silo).
No run and no server can change it. A key that is not in this table is refused, for a demand that is
misspelt would be none.

"""
TITLES = {
    "model": "Base model and experts",
    "data": "Tasks and silos",
    "rounds": "Rounds and local training",
    "em": "Experts and the E-step",
    "lifecycle": "Birth, prune and merge",
    "method": "Private slot and other strategies",
    "evaluation": "Evaluation",
    "output": "Results, privacy and seed",
    "dp": "Differential privacy",
}


def settings_table() -> str:
    """Return the page: one table of settings per group."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves(RunConfig):
        groups.setdefault(leaf.group, []).append(leaf)
    tables = [f"\n## {TITLES[name]}\n\n{_table(group)}" for name, group in groups.items()]
    return "".join([HEADER, *tables, NODE, _table(leaves(NodeSettings), "key")])


def _table(group: Iterable[Leaf], what: str = "setting") -> str:
    head = f"| {what} | default | accepts | meaning |\n|---|---|---|---|\n"
    return head + "".join(_row(leaf) for leaf in group)


def _row(leaf: Leaf) -> str:
    cells = f"`{leaf.key}`", f"`{toml_value(leaf.default)}`", leaf.allowed, leaf.meaning
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
