"""Server and silos meet: at the start, when one joins, and again when a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.server.consortium import Consortium, introduce, require, wait_for_nodes
from fedvemoe_app.flower.server.membership import Membership
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.sums.one_reply import Tally

LOG = logging.getLogger("flwr")
REUNION_SECONDS = 120.0
"""How long a run that goes on waits for all of its silos, before it goes on with fewer."""
Told = Callable[[int], RecordDict]
"""Returns what silos are told that are met in a round."""


@dataclass(frozen=True, slots=True)
class Reunion:
    """Who came back: ``held`` is the round of each silo's stored state, None for a newcomer."""

    membership: Membership
    held: Mapping[str, int | None]
    failures: Mapping[str, str]


def reunion(grid: Grid, config: RunConfig, silos: int) -> list[int]:
    """Return the connected nodes once all ``silos`` of a run are back, or enough have waited."""
    rounds = config.rounds
    try:
        return wait_for_nodes(grid, silos, min(REUNION_SECONDS, rounds.phase_timeout))
    except RunError:
        return wait_for_nodes(grid, rounds.min_silos, rounds.phase_timeout)


def meet(
    grid: Grid,
    config: RunConfig,
    nodes: list[int],
    base: str,
    recorder: Recorder,
    *,
    round_: int,
    first: RecordDict,
    later: Told,
) -> Reunion:
    """Return the silos that agree with the server on code and base; RunError for too few.

    ``first`` is what they are told now, ``later`` what newcomers are told.
    """

    def ask(nodes: Sequence[int], round_: int, told: RecordDict) -> tuple[Consortium, Tally]:
        recorder.phase("hello", round_, len(nodes))
        timeout = float(config.rounds.phase_timeout)
        met, tally = introduce(grid, nodes, base, timeout=timeout, told=told)
        recorder.exchanged("hello", round_, tally)
        return met, tally

    def welcome(newcomers: Sequence[int], round_: int) -> Consortium:
        try:
            return ask(newcomers, round_, later(round_))[0]
        except RunError as error:  # newcomers that spoil it for themselves cost no one else
            LOG.warning("round %d: no newcomer was met: %s", round_, error)
            return Consortium({})

    consortium, tally = ask(nodes, round_, first)
    require(tally, config.rounds.min_silos, "phase hello")
    held = {name: _held(tally.reports.get(f"node {n}")) for name, n in consortium.nodes.items()}
    return Reunion(Membership(consortium, nodes, welcome), held, tally.failures)


def _held(report: Any) -> int | None:
    found = report.get("held") if isinstance(report, dict) else None
    return found if type(found) is int else None
