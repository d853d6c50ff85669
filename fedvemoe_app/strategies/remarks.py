"""What a run's settings do not mean to the strategy that was chosen, in words."""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.lifecycle import LifecycleSettings
from fedvemoe_app.settings import leaves
from fedvemoe_app.strategies.method import Method
from fedvemoe_app.strategies.registry import method_of, settle

BANK = ("k-init", "k-max", "top-m", "start")
"""Settings of the bank that a strategy may fix."""
SOMETIMES = (
    *("private-slot", "expert-weight", "proximal-mu", "ditto-lambda", "responsibility-rule"),
    *("server-learning-rate", "server-eta", "server-beta1", "server-beta2", "server-tau"),
    *("total-steps", "out-json"),
)
"""Settings that a method follows where it ``reads`` them."""
LIFECYCLE = tuple(leaf.key for leaf in leaves(LifecycleSettings))
E_STEP = ("rho", "predict-floor", "kappa", "tau")
"""Settings of the run's own E-step; a method with a rule of its own has none."""
CHOICE = (
    *("gamma", "prior-concentration", "probing", "warmup-rounds"),
    *("sketch-size", "sketch-restarts", "sketch-iterations"),
)
"""What is of no effect where there is one expert to choose from."""
SHARING = ("lora-factors", "silo-weight", "shrinkage", "fraction-train", "c-min")
"""What is of no effect where silos share no expert."""
HARMLESS = {"private-slot": "off", "lifecycle": False}
"""Values that say what holds anyhow where the setting is not read."""


def remarks(config: RunConfig) -> list[str]:
    """Return a line for each setting that the user gave and the strategy does not follow."""
    method, given, kept = method_of(config), config.to_flat(), settle(config).to_flat()
    changed = [leaf.key for leaf in leaves(RunConfig) if given[leaf.key] != leaf.default]
    fixed = [key for key in BANK if key in changed and kept[key] != given[key]]
    unread = unfollowed(method).difference(fixed)
    idle = [key for key in changed if key in unread and given[key] != HARMLESS.get(key)]
    return [
        *(f"{key} = {given[key]}: {method.name} works with {kept[key]}" for key in fixed),
        *(f"{key} = {given[key]}: {method.name} does not read it" for key in idle),
    ]


def unfollowed(method: Method) -> set[str]:
    """Return the settings, by key, that change nothing under a method."""
    keys = set(SOMETIMES).difference(method.reads)
    if not method.lifecycle:
        keys.update(LIFECYCLE)
    if method.rule or method.one_expert:
        keys.update(E_STEP)
    if method.rule:
        keys.add("top-m")
    if method.rule == "argmin":  # one expert a silo: its posterior is one at any temperature
        keys.add("gamma")
    if method.one_expert:
        keys.update(CHOICE)
    if not method.shared:
        keys.update(SHARING)
    return keys
