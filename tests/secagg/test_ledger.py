"""What a silo never does twice, over all of its runs, and how little it must remember for that.

Removed by hand, each turned a test here red: the run in the key of sessions; runs that are over;
the survivors by model; joining the ledger of earlier runs, in all its parts; telling sums without
arrays apart by run.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.ledger import MAX_MODELS, MAX_RUNS, Ledger
from fedvemoe_app.secagg.transcript import Shown
from tests.secagg.attack import VICTIM, prepared
from tests.secagg.consortium import Run, member, spec_for


def after(client: Client, name: str = VICTIM) -> Client:
    """Return the silo's end in a later run: of this one it has its ledger."""
    later = Client(member(name))
    later.join(client.ledger())
    return later


def survive(run: Run) -> None:
    """Let every silo of a run forget all but its ledger."""
    run.clients = {name: after(client, name) for name, client in run.clients.items()}


def test_sessions_are_numbered_by_run() -> None:
    client = Client(member(VICTIM))
    client.advertise(spec_for(4, serial=7, run=1).to_bytes())
    client = after(client)
    client.advertise(spec_for(4, serial=1, run=2).to_bytes())
    for run, serial in ((1, 7), (1, 6), (2, 1)):
        with pytest.raises(SecAggRefusal, match="sessions never repeat"):
            after(client).advertise(spec_for(4, serial=serial, run=run).to_bytes())
    after(client).advertise(spec_for(4, serial=8, run=1).to_bytes())


def test_old_runs_are_forgotten_but_stay_over() -> None:
    ledger = Ledger()
    for run in range(2 * MAX_RUNS):
        ledger.open(spec_for(4, run=10 * run))
    assert len(ledger.sessions) == MAX_RUNS
    for run in (0, 10 * (MAX_RUNS - 1), 5):
        with pytest.raises(SecAggRefusal, match=f"run {run} is over"):
            ledger.open(spec_for(4, serial=99, run=run))
    ledger.open(spec_for(4, serial=8, run=10 * MAX_RUNS))


def test_joining_takes_nothing_back() -> None:
    """Whichever of the two knows more of a session, a run or a model, that is known afterwards."""
    much, little = Ledger(over=20), Ledger(over=10)
    for ledger, serial in ((much, 9), (little, 3)):
        ledger.open(spec_for(4, serial=serial, run=30))
        ledger.unmask("model", b"all", "vectors")
    for ledger, other in ((much, little), (little, much)):
        joined = Ledger.from_bytes(ledger.to_bytes())
        joined.join(other)
        for serial, run, says in ((9, 30, "not newer than 9"), (99, 20, "run 20 is over")):
            with pytest.raises(SecAggRefusal, match=says):
                joined.open(spec_for(4, serial=serial, run=run))
        with pytest.raises(SecAggRefusal, match="unmasked before"):
            joined.unmask("model", b"fewer", "vectors")
        joined.open(spec_for(4, serial=10, run=30))


def test_models_are_remembered_up_to_a_bound() -> None:
    ledger = Ledger()
    for number in range(MAX_MODELS + 5):
        ledger.unmask(str(number), b"all", "sum")
    ledger = Ledger.from_bytes(ledger.to_bytes())
    assert len(ledger.unmasked) == MAX_MODELS
    assert "4" not in ledger.unmasked
    with pytest.raises(SecAggRefusal, match="for other survivors"):
        ledger.unmask("5", b"some", "sum")
    assert len(ledger.to_bytes()) < 200 * MAX_MODELS


def test_a_model_of_an_earlier_run_is_not_unmasked_for_others() -> None:
    first, shown, uploads = prepared(run=1)
    first.unmask(shown, uploads)
    same = Run.of(5, run=2)
    different = Run.of(5, {"upload": ["silo-04"]}, run=3)
    survive(first)
    same.clients = different.clients = first.clients
    same.unmask(shown, uploads)
    with pytest.raises(SecAggRefusal, match="unmasked before, for other survivors"):
        different.unmask(shown, uploads)


def test_sums_without_a_model_are_told_apart_by_run() -> None:
    """A start is the same in every run: it must not refuse the next, nor be had twice in one."""
    first, shown, uploads = prepared(run=1)
    bare = Shown.of({}, b"round 0", shown.layout)
    first.unmask(bare, uploads)
    survive(first)
    again = Run.of(5, {"upload": ["silo-04"]}, run=1, serial=8)
    next_run = Run.of(5, {"upload": ["silo-04"]}, run=2)
    again.clients = next_run.clients = first.clients
    with pytest.raises(SecAggRefusal, match="unmasked before, for other survivors"):
        again.unmask(bare, uploads)
    next_run.unmask(bare, uploads)
    later = Run.of(5, {"upload": ["silo-04"]}, run=1, serial=9)
    later.clients = first.clients
    later.unmask(Shown.of({}, b"round 1", shown.layout), uploads)
    other = Shown.of({"a": np.zeros(0)}, b"round 0", shown.layout)
    assert other.model != bare.model


def test_a_ledger_is_sealed_and_its_owners() -> None:
    client = Client(member(VICTIM))
    client.advertise(spec_for(4, run=1).to_bytes())
    sealed = client.ledger()
    for changed in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b""):
        with pytest.raises(SecAggRefusal, match="tampered"):
            Client(member(VICTIM)).join(changed)
    with pytest.raises(SecAggRefusal, match="tampered"):
        Client(member("silo-01")).join(sealed)
    assert b"sessions" not in sealed
    assert client.ledger(Client(member(VICTIM)).join(sealed)) == b""
