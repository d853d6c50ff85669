"""A silo's memory between phases: the bank it was sent, its belief, sketch, regret and own expert.

It lies in ``Context.state``, which Flower keeps on the silo's side for the length of a run. All but
the bank is written here and read here; no function of this package sends it.

A sum may come to nothing after this silo has done its part. What grows with each phase, the own
expert and the regret, is therefore put down as what comes ``next``: it counts once the server goes
on to another phase, and is dropped where the server asks for the same one again.
"""

from __future__ import annotations

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedvemoe_app.em import sketch
from fedvemoe_app.em.lifecycle.orders import Notice
from fedvemoe_app.em.lifecycle.regret import Memory
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import (
    get_bank,
    get_belief,
    get_facts,
    get_tensors,
    put_bank,
    put_belief,
    put_facts,
    put_tensors,
)
from fedvemoe_app.personal import Personal

NEXT = "next:"
PHASE = "next.of"


def begin(state: RecordDict, phase: str, round_: int) -> None:
    """Enter a phase of a round: settle what the last one left, or undo it where this repeats it."""
    repeated = PHASE in state and get_facts(state, PHASE) == [phase, round_]
    for name in [name for name in state if name.startswith(NEXT)]:
        record = state[name]
        del state[name]
        if not repeated:
            state[name.removeprefix(NEXT)] = record
    put_facts(state, PHASE, [phase, round_])


def remember(state: RecordDict, round_: int, bank: Bank, belief: Belief) -> None:
    """Keep the bank after ``round_`` rounds and what this silo believes of it."""
    put_bank(state, bank)
    put_belief(state, belief)
    put_facts(state, "round", round_)


def round_in(state: RecordDict) -> int | None:
    """Return after how many rounds the bank was that this silo was sent last; None before any."""
    return int(get_facts(state, "round")) if "round" in state else None


def recall(state: RecordDict, round_: int) -> tuple[Bank, Belief]:
    """Return the bank after ``round_`` rounds; RunError where this silo missed it."""
    held = round_in(state)
    if held != round_:
        raise RunError(f"this silo holds the bank after round {held}, not after round {round_}")
    return get_bank(state), get_belief(state)


def remember_regret(state: RecordDict, memory: Memory, notice: Notice | None = None) -> None:
    """Keep what the lifecycle needs of this silo; with a ``notice``, its merged candidate too."""
    put_tensors(state, f"{NEXT}regret", memory.arrays())
    if notice is None:
        return
    if "candidate" in state:
        del state["candidate"]
    if notice.candidate:
        put_tensors(state, "candidate", notice.candidate)
        put_facts(state, "candidate.into", notice.into)


def recall_regret(state: RecordDict) -> Memory | None:
    """Return what ``remember_regret`` kept; None at the start."""
    return Memory.from_arrays(get_tensors(state, "regret")) if "regret" in state else None


def recall_candidate(state: RecordDict) -> tuple[dict[str, Tensor], int]:
    """Return the merged candidate [1, ...] and its column; RunError where this silo missed it."""
    if "candidate" not in state:
        raise RunError("this silo holds no merged expert: it missed the assessment")
    return get_tensors(state, "candidate"), int(get_facts(state, "candidate.into"))


def remember_sketch(state: RecordDict, found: Tensor) -> None:
    """Keep this silo's sketch [d]."""
    put_tensors(state, "sketch", {"sketch": found})


def direction(state: RecordDict, mean: Tensor) -> Tensor:
    """Return how this silo differs from the mean sketch [d]; RunError without a sketch."""
    if "sketch" not in state:
        raise RunError("this silo has no sketch: it missed the start")
    return sketch.centred(get_tensors(state, "sketch")["sketch"], mean)


def first_expert(state: RecordDict, mean: Tensor, centroids: Tensor, size: int) -> Tensor | None:
    """Return weights [size] on the one expert this silo starts with; None without a sketch."""
    if "sketch" not in state:
        return None
    cluster = sketch.nearest(direction(state, mean), centroids)
    return torch.eye(size, dtype=torch.float64)[cluster]


def remember_own(state: RecordDict, own: Personal) -> None:
    """Keep this silo's own expert, its best version once where that is the last."""
    put_tensors(state, f"{NEXT}own.last", own.last)
    put_tensors(state, f"{NEXT}own.best", {} if own.best is own.last else own.best)
    put_tensors(state, f"{NEXT}own.probe", {"log_lik": own.log_lik})


def recall_own(state: RecordDict) -> Personal | None:
    """Return this silo's own expert; None where it has none yet."""
    if "own.last" not in state:
        return None
    last = get_tensors(state, "own.last")
    best = get_tensors(state, "own.best") or last
    return Personal(last, best, get_tensors(state, "own.probe")["log_lik"])
