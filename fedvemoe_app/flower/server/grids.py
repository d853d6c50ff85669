"""The grid of a run: how its sums are formed, and what is added to them on the way."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.server.membership import Membership
from fedvemoe_app.flower.sums.noised import NoisedGrid
from fedvemoe_app.flower.sums.one_reply import OneReplyGrid
from fedvemoe_app.flower.sums.plain import SummingGrid
from fedvemoe_app.flower.sums.secure import SecureGrid
from fedvemoe_app.report.progress import Progress
from fedvemoe_app.secagg.roster import Roster, read_roster
from fedvemoe_app.secagg.simulated import simulated_roster


def summing(
    grid: Grid,
    config: RunConfig,
    membership: Membership,
    silos: Sequence[str],
    progress: Progress,
) -> OneReplyGrid:
    """Return the grid that forms sums as ``privacy`` says, over ``silos`` by name."""
    output, names, message_mb = config.output, membership.names, config.rounds.message_mb
    if output.privacy == "none":
        return SummingGrid(grid, names, message_mb=message_mb, replied=progress.reply)
    return SecureGrid(
        grid,
        names,
        _roster(config, silos),
        masked=output.privacy == "secagg",
        bits=output.secagg_bits,
        min_survivors=output.min_survivors,
        confirm=output.confirm,
        message_mb=message_mb,
        replied=progress.reply,
    )


def noised(inner: OneReplyGrid, config: RunConfig, membership: Membership) -> NoisedGrid | None:
    """Return the grid that asks for noise and keeps the account; None without dp."""
    if not config.dp.on:
        return None
    output = config.output
    return NoisedGrid(inner, membership.names, config.dp, output.min_survivors, output.secagg_bits)


def _roster(config: RunConfig, silos: Sequence[str]) -> Roster:
    """Return the identity keys of all silos: the consortium's, or those of a simulation."""
    output = config.output
    if output.roster:
        return read_roster(output.roster, output.consortium_key)
    return simulated_roster(silos, output.seed)
