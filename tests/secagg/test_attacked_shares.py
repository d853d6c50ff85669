"""Attacks on sealed shares: tampered, moved, from strangers, too few.

Removed by hand, each turned a test here red: the place that shares are bound to (sender and
receiver also follow from the pair's key, so only both at once can be missed); shares of advertisers
only; enough sharers; their size.
"""

from __future__ import annotations

import pytest

from fedvemoe_app.secagg.codec import pack
from fedvemoe_app.secagg.errors import SecAggRefusal
from tests.secagg.attack import VICTIM, fields_of
from tests.secagg.consortium import (
    Run,
    names,
)


def inbox_of(run: Run) -> dict[str, bytes]:
    return fields_of(run.share()[VICTIM], "sealed")["sealed"]  # type: ignore[return-value]


def refuses_inbox(run: Run, sealed: dict[str, bytes], says: str) -> None:
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].receive(pack({"session": run.spec.session, "sealed": sealed}))


@pytest.mark.parametrize("place", [0, 12, 50, -1])
def test_a_tampered_share_is_refused(place: int) -> None:
    run = Run.of(4)
    sealed = inbox_of(run)
    tampered = bytearray(sealed["silo-01"])
    tampered[place] ^= 1
    refuses_inbox(run, sealed | {"silo-01": bytes(tampered)}, "tampered")
    refuses_inbox(run, sealed | {"silo-01": b""}, "tampered")


def test_shares_in_another_place_are_refused() -> None:
    """Another sender's, another receiver's, and the receiver's own turned back on it."""
    run = Run.of(4)
    adverts = run.advertise()
    sent = {}
    for name in run.clients:
        reply = run.clients[name].share(adverts)
        sent[name] = fields_of(reply, "sealed")["sealed"]
    good = {src: sent[src][VICTIM] for src in names(4)[1:]}
    for wrong in (sent["silo-02"][VICTIM], sent["silo-01"]["silo-02"], sent[VICTIM]["silo-01"]):
        refuses_inbox(run, good | {"silo-01": wrong}, "not for this place")
    run.clients[VICTIM].receive(pack({"session": run.spec.session, "sealed": good}))


def test_shares_of_strangers_and_too_few_shares_are_refused() -> None:
    run = Run.of(5, {"advertise": ["silo-04"]})
    sealed = inbox_of(run)
    refuses_inbox(run, sealed | {"silo-04": sealed["silo-01"]}, "1 of them unknown")
    refuses_inbox(run, sealed | {VICTIM: sealed["silo-01"]}, "1 of them unknown")
    refuses_inbox(run, {"silo-01": sealed["silo-01"]}, "shares of 1 peers.*need 3")


def test_shares_of_a_wrong_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.of(4)
    adverts = run.advertise()
    with monkeypatch.context() as patch:
        patch.setattr("fedvemoe_app.secagg.client._split", lambda s: dict.fromkeys(names(4), b"x"))
        short = fields_of(run.clients["silo-01"].share(adverts), "sealed")["sealed"][VICTIM]
    others = {}
    for name in (VICTIM, "silo-02", "silo-03"):
        others[name] = fields_of(run.clients[name].share(adverts), "sealed")["sealed"]
    sealed = {name: others[name][VICTIM] for name in ("silo-02", "silo-03")}
    refuses_inbox(run, sealed | {"silo-01": short}, "shares of silo-01 have 1 bytes")
