"""The reference of settings, generated from the declarations: docs/configuration.md."""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.programs.manifest import toml_value
from fedvemoe_app.settings import Leaf, leaves

HEADER = """# Settings

Give them as `key=value` to `fedvemoe run`, in a TOML file with `--run-config FILE`, or to
`flwr run . --run-config 'key=value'` (texts in quotes). This page is made by
`fedvemoe settings`.
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
    return HEADER + "".join(_table(TITLES[name], group) for name, group in groups.items())


def _table(title: str, group: list[Leaf]) -> str:
    head = "| setting | default | accepts | meaning |\n|---|---|---|---|\n"
    return f"\n## {title}\n\n{head}" + "".join(_row(leaf) for leaf in group)


def _row(leaf: Leaf) -> str:
    cells = f"`{leaf.key}`", f"`{toml_value(leaf.default)}`", leaf.allowed, leaf.meaning
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
