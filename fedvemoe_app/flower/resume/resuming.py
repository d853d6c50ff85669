"""A run that goes on: where it stands, what may differ from before, and who may write to it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import BaseModelError, DataError, RunError, SettingError
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.resume.checkpoint import FOLDER, Checkpoints, Saved
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.report.journal import Journal, read_run
from fedvemoe_app.report.reopened import reopen

LOG = logging.getLogger("flwr")
COURSE = "run"
"""The part of a checkpoint that says which run it is of."""
FREE = (
    *("num-server-rounds", "phase-timeout", "void-retries", "message-mb", "min-silos"),
    "keep-checkpoints",
    *("trackers", "out-json", "log-dir", "run-name", "resume"),
    *("dataset-name", "model-name", "base-model", "device", "roster", "consortium-key"),
)
"""Settings that may differ where a run goes on; bank and base are known by their fingerprints."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Facts as a part of a checkpoint; whoever goes on reads them from it."""

    facts: Callable[[], Mapping[str, Any]]

    def state(self) -> State:
        """Return the facts of now."""
        return State({}, self.facts())

    def restore(self, state: State) -> None:
        """Nothing goes on from facts alone."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a run that goes on: its settings, and its last complete round."""

    folder: Path
    config: RunConfig
    saved: Saved

    @property
    def facts(self) -> Mapping[str, Any]:
        """The run's key, fingerprints of base and bank, silos, rows of scores, and position."""
        return self.saved.parts[COURSE].facts

    @property
    def silos(self) -> int:
        """How many silos the run began with."""
        return int(self.facts["silos"])

    @property
    def rows(self) -> TaskRows:
        """The rows of scores, as they were agreed at the start."""
        rows = self.facts["rows"]
        return TaskRows(tuple(rows["names"]), tuple(rows["categories"]), rows["numbers"])

    def admitted(self, config: RunConfig) -> RunConfig:
        """Return the settings to go on with; SettingError, with the differences, where it cannot.

        ``config`` are those given now, fitted to the number of silos that the run began with.
        """
        given, kept = config.to_flat(), self.config.to_flat()
        other = [key for key in given if key not in FREE and given[key] != kept[key]]
        if other:
            shown = "; ".join(f"{key} = {given[key]}, the run has {kept[key]}" for key in other)
            raise SettingError(f"{self.folder} cannot go on with other settings: {shown}")
        _check_rounds(config, self.config)
        output, own = config.output, self.config.output
        same = replace(output, run_name=own.run_name, log_dir=own.log_dir, resume="")
        return replace(config, output=same)

    def require(self, *, base: str, bank: str | None) -> None:
        """Raise an error, with both fingerprints, where base or task bank are others."""
        if base != self.facts["base"]:
            raise BaseModelError(
                f"the base has fingerprint {base[:16]}, that of {self.folder} was "
                f"{self.facts['base'][:16]}: set model-name to the same files"
            )
        if bank != self.facts["bank"]:
            raise DataError(
                f"the task bank has fingerprint {str(bank)[:16]}, that of {self.folder} was "
                f"{str(self.facts['bank'])[:16]}: set dataset-name to the same tasks"
            )

    def reopened(self, config: RunConfig) -> Journal:
        """Return the journal at the last complete round; what came after it is removed."""
        if self.facts["code"] != code_hash():
            LOG.warning("%s was made by other code: it goes on, not bit for bit", self.folder)
        Checkpoints.of(self.folder).drop_after(self.saved.round)
        journal = reopen(self.folder, self.facts["position"], config.to_flat())
        earlier = read_run(self.folder).manifest.get("resumed", [])
        when = datetime.now(UTC).isoformat(timespec="seconds")
        now = {"round": self.saved.round, "at": when, "code": code_hash()}
        journal.annotate(resumed=[*earlier, now])
        return journal


def past_of(folder: Path, rounds: int) -> Past:
    """Return where the run in a folder stands, to go on to ``rounds`` rounds.

    After the last round nothing is decided about the bank's structure. A finished run that is to
    have more rounds therefore goes on from the round before, which is then not the last.

    Raises
    ------
    RunError
        Where there is no run, no complete round, or nothing left to do.
    """
    run = read_run(folder)
    config = run.settings()
    last, checkpoints = config.rounds.num_server_rounds, Checkpoints.of(folder)
    if run.summary is not None and rounds <= last:
        raise RunError(
            f"{folder} is finished: {last} rounds are complete; to go on, set num-server-rounds "
            "to more"
        )
    complete = checkpoints.rounds()
    before = last - 1 if rounds > last and {last, last - 1} <= set(complete) else None
    return Past(folder, config, checkpoints.latest(before))


def resumable(folder: Path) -> int | None:
    """Return the last complete round of a run that can go on; None for any other."""
    complete = Checkpoints.of(folder).rounds()
    finished = (folder / "summary.json").exists()
    return None if finished or not complete else complete[0]


def how_to_go_on(folder: Path) -> str:
    """Return the words that say how an unfinished run is continued; "" for any other."""
    done = resumable(folder)
    if done is None:
        return ""
    rounds = f"round {done} is complete" if done else "row 0 is complete"
    return f"{rounds}; go on from there with: fedvemoe resume {shlex.quote(str(folder))}"


def refuse_taken(folder: Path) -> None:
    """Raise RunError where a new run's folder exists already; it says so if that can go on."""
    if folder.exists():
        other = f"the run folder {folder} exists already: choose another run-name"
        raise RunError("; or, ".join(filter(None, [other, how_to_go_on(folder)])))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's folder; RunError where one does."""
    lock = FileLock(folder / FOLDER / "lock")
    try:
        (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{folder} is in use: another process is running this run; wait for its end, or stop it"
        ) from None
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _check_rounds(config: RunConfig, kept: RunConfig) -> None:
    """Refuse a number of rounds that the rounds so far do not fit."""
    now, before = config.rounds.num_server_rounds, kept.rounds.num_server_rounds
    if now < before:
        raise SettingError(f"num-server-rounds = {now}: the run has {before}, and may have more")
    if now > before and config.rounds.total_steps:
        raise SettingError(
            f"num-server-rounds = {now}: the run spreads total-steps over {before} rounds"
        )
