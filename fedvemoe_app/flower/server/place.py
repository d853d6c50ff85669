"""Where a run writes, and where it goes on from: its journal, its checkpoints, and its key."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from flwr.app import RecordDict

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.resume.checkpoint import Checkpoints, Parts, Stateful
from fedvemoe_app.flower.resume.resuming import COURSE, Noted, Past
from fedvemoe_app.flower.server.meeting import Reunion
from fedvemoe_app.flower.server.membership import Membership
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.silo.lasting import Keeping
from fedvemoe_app.flower.sums.noised import NoisedGrid
from fedvemoe_app.flower.sums.one_reply import OneReplyGrid
from fedvemoe_app.report.journal import Journal
from fedvemoe_app.report.reopened import position_of

SUMS_OF_A_ROUND = 2


@dataclass(frozen=True, slots=True)
class Place:
    """One run's place on disk; ``key`` [32 hex digits] is what silos know it by."""

    journal: Journal
    checkpoints: Checkpoints
    key: str
    silos: int
    past: Past | None = None

    @classmethod
    def new(cls, journal: Journal, config: RunConfig, silos: int) -> Self:
        """Return the place of a run that begins."""
        kept = Checkpoints.of(journal.folder, config.output.keep_checkpoints)
        return cls(journal, kept, secrets.token_hex(16), silos)

    @classmethod
    def of(cls, journal: Journal, config: RunConfig, past: Past) -> Self:
        """Return the place of a run that goes on."""
        kept = Checkpoints.of(journal.folder, config.output.keep_checkpoints)
        return cls(journal, kept, past.facts["key"], past.silos, past)

    def greeting(self, round_: int, *, again: bool = False) -> RecordDict:
        """Return what silos are told that are met after ``round_`` complete rounds."""
        content = RecordDict()
        folder = str(self.checkpoints.shelf.folder / "silos")
        Keeping(self.key, folder, self.checkpoints.shelf.keep, round_, again).put(content)
        return content

    def parts(
        self,
        parts: Parts,
        sums: OneReplyGrid,
        noise: NoisedGrid | None,
        facts: Mapping[str, Any],
        membership: Membership,
    ) -> dict[str, Stateful]:
        """Return all parts of a checkpoint: the strategy's, the sums', and which run it is."""

        def course() -> dict[str, Any]:
            present, position = membership.present.names, position_of(self.journal.folder)
            own = {"key": self.key, "silos": self.silos, "code": code_hash()}
            return {**facts, **own, "present": present, "position": position}

        noises = {"noise": noise} if noise else {}
        return {**parts, "sums": sums, **noises, COURSE: Noted(course)}

    def reunited(
        self, config: RunConfig, met: Reunion, recorder: Recorder, noise: NoisedGrid | None
    ) -> int:
        """Note who came back without a state, and who did not; return how many.

        In a simulation all must: it is to end as if it had never been interrupted. In a deployment
        the round that was cut short may have cost privacy: its sums are counted once more.

        Raises
        ------
        RunError
            Where a silo of a simulation cannot go on.
        """
        if self.past is None:
            return 0
        round_, before = self.past.saved.round, self.past.facts["present"]
        gone = sorted(set(before) - met.held.keys())
        new = sorted(silo for silo, held in met.held.items() if held is None)
        if lost := [silo for silo in (*gone, *new) if silo in before and not config.output.roster]:
            reasons = "; ".join(met.failures.values()) or "their states are missing"
            raise RunError(f"the run cannot go on with {', '.join(lost)} as before: {reasons}")
        for silo in gone:
            recorder.membership(round_, "leave", silo)
        for silo in new:
            recorder.membership(round_, "join", silo)
        if noise and config.output.roster:
            noise.spend(SUMS_OF_A_ROUND)
        return len(gone) + sum(silo in before for silo in new)
