"""Privacy settings against the number of silos: what can be kept, and a word where it cannot."""

from __future__ import annotations

import logging
from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.ring import COMPACT_MAX_SILOS

LOG = logging.getLogger("flwr")
CROWD = 3
"""Silos among which one is hidden: of two, each can subtract itself."""


def fitted(config: RunConfig, silos: int) -> RunConfig:
    """Return the settings with ``privacy`` and ``c-min`` as ``silos`` silos allow.

    Fewer than three silos cannot hide from one another, so their sums are plain; ``c-min = 0``
    becomes three, or what is left where there are fewer silos than that for each expert. Both are
    said in a warning. A deployed silo decides by its own node config whether it takes part.

    Raises
    ------
    SettingError
        Where ``min-survivors`` exceeds the number of silos, or ``secagg-bits = 16`` has too many.
    """
    output = config.output
    if output.privacy != "none" and silos < CROWD:
        LOG.warning(
            "privacy = %s needs %d silos, there are %d: sums are plain (privacy = none); start "
            "more, such as num-supernodes=12",
            *(output.privacy, CROWD, silos),
        )
        output = replace(output, privacy="none")
    if output.privacy == "none":
        return replace(config, output=replace(output, c_min=output.c_min or 1))
    if output.min_survivors > silos:
        raise SettingError(
            f"min-survivors = {output.min_survivors} exceeds the {silos} silos: lower it to "
            f"{CROWD} or more, or start more silos"
        )
    if output.secagg_bits == 16 and silos > COMPACT_MAX_SILOS:
        raise SettingError(
            f"secagg-bits = 16 holds sums of {COMPACT_MAX_SILOS} silos at most, there are {silos}: "
            "set secagg-bits = 32"
        )
    return replace(config, output=replace(output, c_min=output.c_min or _least(config, silos)))


def _least(config: RunConfig, silos: int) -> int:
    per_expert = max(1, silos // config.em.k_init)
    if per_expert < CROWD:
        LOG.warning(
            "%d silos for %d experts: an expert that fewer than %d silos train is summed as well, "
            "so the server may learn what one silo changed. Start more silos, lower k-init, or "
            "set c-min = %d to leave such experts untrained",
            *(silos, config.em.k_init, CROWD, CROWD),
        )
    return min(CROWD, per_expert)
