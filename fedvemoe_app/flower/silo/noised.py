"""Noised sums, a silo's end: clip and noise before anything is masked or sent.

A silo goes by the run's settings and by its own node config, which may demand a form of noise and
a least multiplier. Each release of a run leaves once: asked again, a silo would spend twice.
"""

from __future__ import annotations

import os

from flwr.app import ConfigRecord, Context, RecordDict
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.config import RunConfig
from fedvemoe_app.dp.fields import Groups
from fedvemoe_app.dp.noise import Bits
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.flower.messages.privacy import check_dp
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_facts
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.flower.sums.noised import mechanism_of
from fedvemoe_app.secagg.masks import MASK_KEY_BYTES, Keystream, scratch
from fedvemoe_app.settings import listed

LEDGER = "dp"
"""The record of a silo's state that holds the number of its last release."""


def admit(context: Context) -> None:
    """Raise RunError where this silo's node config demands more noise than the run gives."""
    config = RunConfig.from_flat(context.run_config)
    node = NodeSettings.of(context.node_config)
    if config.dp.dp not in listed(node.accepted_dp):
        raise RunError(
            f"dp = {config.dp.dp} is not accepted by this silo (accepted-dp: {node.accepted_dp})"
        )
    least = node.least_dp_noise
    if config.dp.on and config.dp.dp_noise < least:
        raise RunError(f"dp-noise = {config.dp.dp_noise:g}: this silo demands {least:g} or more")


def noised(
    asked: RecordDict, sums: dict[str, Tensor], context: Context, *, least: int | None = None
) -> dict[str, Tensor]:
    """Return a phase's sums, clipped and noised as the run says; unchanged where dp is off.

    ``least`` is how many silos a secure sum is sure to hold; None where nothing is masked, and
    the server is trusted to count.

    Raises
    ------
    RunError
        Where the noise would be less than the run promises, or the release was made before.
    """
    config = RunConfig.from_flat(context.run_config)
    if not config.dp.on:
        return sums
    check_dp(config)
    order = get_facts(asked, "dp")
    number, sharing = int(order["number"]), int(order["silos"])
    if sharing < 1 or (config.dp.dp == "local" and sharing > 1):
        raise RunError(f"dp = {config.dp.dp} with noise shared by {sharing} silos")
    if least is not None and sharing > least:
        raise RunError(f"noise shared by {sharing} silos in a sum that may hold {least}")
    _spend(context, number, 2 * config.rounds.num_server_rounds)
    template = Template.get(asked)
    groups = Groups.of(tuple(sums), tuple(template.rms), config.dp.dp_evaluation)
    mechanism = mechanism_of(config.dp, sharing)
    return mechanism.release(sums, groups, template.step, _bits(context, config, number))


def _spend(context: Context, number: int, last: int) -> None:
    """Note a release; RunError for one that was made before, or that the run has no account of."""
    record = context.state.config_records.get(LEDGER)
    before = int(record["number"]) if record else -1  # type: ignore[arg-type]
    if not before < number <= last:
        raise RunError(
            f"release {number} of this run: {before} was the last, the run has {last}; a second "
            "release would spend privacy twice"
        )
    context.state[LEDGER] = ConfigRecord({"number": number})


def _bits(context: Context, config: RunConfig, number: int) -> Bits:
    """Return a secret stream for one release; in a simulation one that can be repeated.

    Noise that follows from the run's seed hides nothing: a silo with a key of its own draws a fresh
    one from the operating system.
    """
    key = os.urandom(MASK_KEY_BYTES)
    if simulated(context):
        silo = int(context.node_config["partition-id"])
        key = seeds.stream(config.output.seed, "noise", silo, number).bytes(MASK_KEY_BYTES)
    stream = Keystream(key)

    def bits(size: int) -> bytearray:
        buffer = scratch()
        stream.fill(buffer, size)
        return buffer[:size]

    return bits
