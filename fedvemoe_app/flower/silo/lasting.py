"""What a silo keeps on disk from round to round, so that a run can go on after its end.

Flower keeps a silo's memory for one run. Here a copy is stored after each round: of everything but
the bank, which the server sends again, and the secrets of secure sums, which serve once. A deployed
silo stores it in its own ``state-path``, under the run's key alone; a simulated one, which has
nothing to hide, where the run says.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.flower.messages.wire import (
    array_of,
    arrays_in,
    get_bank,
    get_facts,
    mark,
    put_bank,
    put_facts,
    texts_in,
    vector_of,
)
from fedvemoe_app.flower.shelf import DamagedError, Shelf, State
from fedvemoe_app.flower.silo import memory
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.silo import Silo

LOG = logging.getLogger("flwr")
KEEPING = "keeping"
PATH = 256
"""Characters of a path in a message, or a multiple: a run has the same bytes wherever it lies."""
ELSEWHERE = {"experts", "bank", "secagg", "parts.ahead", "parts.reply", KEEPING}
"""Records of a silo's memory that are not stored, and their indexes."""
RUNS = 4
"""Runs whose states a deployed silo keeps; older ones are removed when another begins."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a silo is told of a run when it is greeted.

    ``run`` is the run's key [32 hex digits]; ``folder`` is where simulated silos store their
    states; ``keep`` is how many checkpoints the server keeps; ``round`` is the last complete one,
    -1 before row 0; ``again`` says that the run goes on in a new process, and silos must as well.
    """

    run: str
    folder: str
    keep: int
    round: int = -1
    again: bool = False

    def put(self, content: RecordDict) -> None:
        """Add it to a message, whose size does not tell how long the folder's path is."""
        put_facts(content, KEEPING, {**asdict(self), "folder": _padded(self.folder)})

    @classmethod
    def get(cls, content: RecordDict) -> Self:
        """Return what a message tells; RunError where it is damaged."""
        match get_facts(content, KEEPING):
            case {
                "run": str(run),
                "folder": str(folder),
                "keep": int(keep),
                "round": int(round_),
                "again": bool(again),
            } if len(run) == 32 and set(run) <= set("0123456789abcdef") and keep > 0:
                return cls(run, folder, keep, round_, again)
        raise RunError(f"record {KEEPING} of a message is damaged")


def _padded(folder: str) -> str:
    """Return the path with slashes at its end, which name the same folder."""
    return folder + "/" * (-len(folder) % PATH)


def take_up(content: RecordDict, context: Context, silo: Silo) -> int | None:
    """Take note of the run, and go on from the state stored last; return its round.

    None says that this silo has none: it begins anew, where the run goes on with its own E-step on
    the bank that came along.

    Raises
    ------
    RunError
        Where the stored state is of another bank; in a simulation, where it cannot be read.
    """
    if KEEPING not in content:
        return None
    keeping = Keeping.get(content)
    context.state[KEEPING] = texts_in(content)[KEEPING]
    shelf = _shelf(context)
    held = _restored(shelf, keeping, context) if shelf and "round" not in context.state else None
    if keeping.again:
        _hold(content, context, silo, keeping.round, known=held is not None)
    return held


def keep(context: Context, round_: int) -> None:
    """Store this silo's memory after its part of a round, where it has a place for it."""
    shelf = _shelf(context) if KEEPING in context.state else None
    if shelf is None:
        return
    try:
        shelf.put(round_, _packed(context.state))
    except RunError as error:
        if simulated(context):
            raise
        LOG.warning("this silo can take part, but not go on after the run's end: %s", error)


def keep_trained(context: Context, config: RunConfig, round_: int) -> None:
    """Store what training changed, where no assessment need follow in this round."""
    if config.rounds.fraction_train < 1.0:
        keep(context, round_)


def _shelf(context: Context) -> Shelf | None:
    """Return where this silo stores its states of the run; None where it has no place."""
    told = Keeping.get(context.state)
    if simulated(context):
        name = silo_name(int(context.node_config["partition-id"]))
        return Shelf(Path(told.folder) / name, told.keep + 1)
    place = NodeSettings.of(context.node_config).own_state
    return Shelf(place / told.run, told.keep + 1) if place else None


def _restored(shelf: Shelf, keeping: Keeping, context: Context) -> int | None:
    """Bring back the newest state that is not newer than the run; return its round."""
    if not shelf.folder.is_dir():
        _make(shelf.folder, context)
        return None
    shelf.drop_after(keeping.round)
    for round_ in shelf.rounds():
        try:
            _unpack(shelf.get(round_), context.state)
        except DamagedError:
            if simulated(context):
                raise
            continue
        return round_
    return -1 if simulated(context) else None


def _make(folder: Path, context: Context) -> None:
    """Make the folder of a run; a deployed silo removes those of its oldest runs."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from error
    if not simulated(context):
        runs = [one for one in folder.parent.iterdir() if one.is_dir() and len(one.name) == 32]
        for old in sorted(runs, key=lambda run: run.stat().st_mtime, reverse=True)[RUNS:]:
            shutil.rmtree(old, ignore_errors=True)


def _hold(content: RecordDict, context: Context, silo: Silo, round_: int, *, known: bool) -> None:
    """Hold the bank of the last complete round again, as this silo did if it was assessed then."""
    state = context.state
    shared = silo.method.shared
    if not known:
        bank = get_bank(content) if shared else silo.bank_alone(None)
        belief, _ = silo.assess(bank, None)
        memory.remember(state, round_, bank, belief)
    elif memory.round_in(state) == round_:
        bank = get_bank(content) if shared else silo.bank_alone(memory.recall_own(state))
        if shared and get_facts(state, "mark") != _hex(bank):
            raise RunError(f"the bank of round {round_} is not the one that this silo was sent")
        put_bank(state, bank)


def _packed(state: RecordDict) -> State:
    """Return what is stored of a silo's memory."""
    own = {name for name in state if name.removesuffix(".index") not in ELSEWHERE}
    arrays = {
        f"{name}/{kind}": torch.from_numpy(np.array(vector_of(array)))
        for name, record in arrays_in(state).items()
        if name in own
        for kind, array in record.items()
    }
    texts: dict[str, Any] = {n: dict(record) for n, record in texts_in(state).items() if n in own}
    held = RecordDict()
    put_facts(held, "mark", _hex(get_bank(state)))
    return State(arrays, {**texts, "mark": dict(texts_in(held)["mark"])})


def _unpack(stored: State, state: RecordDict) -> None:
    """Put what was stored into a silo's memory."""
    for name, fields in stored.facts.items():
        state[name] = ConfigRecord(fields)
        if name.endswith(".index"):
            state[name.removesuffix(".index")] = ArrayRecord()
    for name, tensor in stored.arrays.items():
        record, _, kind = name.rpartition("/")
        arrays_in(state)[record][kind] = array_of([tensor.numpy()])


def _hex(bank: object) -> str:
    return np.packbits(mark(bank).numpy()).tobytes().hex()  # type: ignore[arg-type]
