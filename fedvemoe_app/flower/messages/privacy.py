"""Privacy settings as a run can keep them, against the number of silos; a word where it cannot."""

from __future__ import annotations

import logging
from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.ring import COMPACT_MAX_SILOS
from fedvemoe_app.strategies.registry import method_of

LOG = logging.getLogger("flwr")
CROWD = 3
"""Silos among which one is hidden: of two, each can subtract itself."""


def fitted(config: RunConfig, silos: int) -> RunConfig:
    """Return the settings with ``privacy``, ``c-min`` and ``reporting`` as they will be kept.

    Fewer than three silos cannot hide from one another, so their sums are plain; ``c-min = 0``
    becomes three, or what is left where there are fewer silos than that for each expert. Both are
    said in a warning. A deployed silo decides by its own node config whether it takes part, and
    whether it reports in full.

    Raises
    ------
    SettingError
        Where ``min-survivors`` exceeds the number of silos, or ``secagg-bits = 16`` has too many.
    """
    output = config.output
    output = replace(output, reporting=output.reports)
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


def check_dp(config: RunConfig) -> None:
    """Refuse settings whose sums the account of differential privacy would not cover.

    Raises
    ------
    SettingError
        With the setting to change.
    """
    dp, em, rounds = config.dp, config.em, config.rounds
    rules = [
        (
            em.start == "sketch" and em.k_init > 1,
            'start = "sketch" sends gradient sketches: set start = none, or k-init = 1',
        ),
        (
            config.lifecycle.lifecycle and method_of(config).lifecycle,
            "lifecycle = true decides by differences that this noise drowns: set lifecycle = false",
        ),
        (
            rounds.silo_weight != "equal",
            f'silo-weight = "{rounds.silo_weight}" tells of a silo\'s size and scales its changes: '
            "set silo-weight = equal",
        ),
        (
            config.output.reporting == "full" and not dp.dp_evaluation,
            'reporting = "full" sends figures by name, which no noise covers: set reporting = '
            "aggregate, or dp-evaluation = true to let scores and reports leave exact",
        ),
    ]
    for broken, message in rules:
        if dp.on and broken:
            raise SettingError(f'dp = "{dp.dp}": {message}')


def warn_of_dp(config: RunConfig, silos: int) -> None:
    """Say what epsilon will not mean in this run."""
    dp = config.dp
    if dp.on and dp.dp_delta > 1.0 / silos:
        LOG.warning(
            "dp-delta = %g is more than 1 / silos = %.3g: a mechanism that publishes one silo "
            "whole would pass; lower dp-delta",
            *(dp.dp_delta, 1.0 / silos),
        )
    if dp.on and dp.dp_evaluation:
        LOG.warning("dp-evaluation = true: scores leave exact, epsilon does not cover them")
    if dp.dp == "central" and config.output.privacy != "secagg":
        LOG.warning(
            "dp = central with privacy = %s: the server reads each upload, with part of the noise "
            "only, and must be trusted; set privacy = secagg, or dp = local",
            config.output.privacy,
        )
