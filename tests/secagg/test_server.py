"""What the server takes from silos: malformed, foreign, late or repeated messages are dropouts.

Removed by hand, each turned a test here red: the check of a message's session; of the phase; of
repeats; of advertisements; shares for exactly all others; uploads of sharers only; shapes of
uploads; confirmations of uploaders only and their signatures; complete reveals of survivors only;
the commitments to seeds and to mask keys; the least number of survivors.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from fedvemoe_app.errors import RunError
from fedvemoe_app.secagg.codec import pack, unpack
from fedvemoe_app.secagg.errors import SecAggAbort
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.transcript import Advertisement
from tests.secagg.consortium import (
    IDENTITIES,
    ROSTER,
    Run,
    layout_for,
    names,
    shown_for,
    simulated,
    spec_for,
    uploads_of,
)

BAD = "silo-01"


def refused(server: Server, take: Callable[[str, bytes], bool], message: bytes, says: str) -> None:
    server.refused.clear()
    assert not take(BAD, message)
    assert says in server.refused[BAD]


def edited(message: bytes, field: str, edit: Callable[[dict], dict]) -> bytes:
    fields = unpack(message, "message", session=bool, **{field: bool})
    return pack(fields | {field: edit(fields[field])})


def fields_of_advert(message: bytes) -> dict:
    return unpack(message, "message", session=bool, advert=bool)


def test_bad_advertisements_are_dropouts() -> None:
    run = Run.of(4)
    message = run.clients[BAD].advertise(run.spec.to_bytes())
    take = run.server.take_advertisement
    forged = edited(message, "advert", lambda a: a | {"mask_key": os.urandom(32)})
    refused(run.server, take, forged, "signature")
    refused(run.server, take, b"nonsense", "not a message")
    other = run.clients["silo-02"].advertise(run.spec.to_bytes())
    refused(run.server, take, other, "signature of silo-01")
    twin = fields_of_advert(run.clients["silo-00"].advertise(run.spec.to_bytes()))
    assert run.server.take_advertisement("silo-00", pack(twin))
    copied = Advertisement.signed(
        run.spec, IDENTITIES[BAD], twin["advert"]["mask_key"], os.urandom(32), bytes(32)
    )
    refused(run.server, take, pack(twin | {"advert": copied.fields()}), "the same")
    elsewhere = Server(spec_for(4), ROSTER)
    refused(elsewhere, elsewhere.take_advertisement, message, "another session")
    assert not run.server.take_advertisement("silo-09", message)
    assert take(BAD, message)
    refused(run.server, take, message, "a second message")
    assert take("silo-03", run.clients["silo-03"].advertise(run.spec.to_bytes()))
    run.server.advertisements()
    assert not take("silo-02", other)
    assert "phase advertise in phase share" in run.server.refused["silo-02"]


def test_bad_shares_are_dropouts() -> None:
    run = Run.of(4)
    adverts = run.advertise()
    message = run.clients[BAD].share(adverts)
    take = run.server.take_shares
    refused(run.server, take, edited(message, "sealed", lambda s: {}), "all others")
    more = edited(message, "sealed", lambda s: s | {BAD: b""})
    refused(run.server, take, more, "all others")
    assert not take("silo-09", more)  # for all that advertised, from one that did not
    assert take(BAD, message)


def collecting() -> tuple[Run, dict, dict]:
    run = Run.of(5, {"share": ["silo-04"]})
    layout = layout_for(run.spec.ring)
    uploads = uploads_of(layout, run.clients)
    return run, uploads, run.mask(shown_for(layout), uploads)


def test_fewer_uploads_than_agreed_void_the_session_above_the_threshold_too() -> None:
    run = Run.of(5, {"upload": ["silo-04"]}, min_survivors=5)
    layout = layout_for(run.spec.ring)
    with pytest.raises(SecAggAbort, match="phase upload: 4 of 5 clients left, need 5"):
        run.upload(shown_for(layout), uploads_of(layout, run.clients))


def test_bad_uploads_are_dropouts_and_leave_no_trace() -> None:
    run, uploads, lanes = collecting()
    server = run.server
    for name in names(4):
        good = lanes[name]
        bad = {**good, "tensors": good["tensors"][:-1]}
        assert not server.take_upload(name, bad)
        assert "differs from the layout" in server.refused[name]
        assert server.take_upload(name, good)
        assert not server.take_upload(name, good)
        assert "second message" in server.refused[name]
    assert not server.take_upload("silo-04", lanes["silo-00"])
    assert "did not share" in server.refused["silo-04"]
    server.survivors()
    request = server.unmasking()
    for name in names(4):
        server.take_unmasked(name, run.clients[name].unmask(request))
    total = server.total()
    plain = simulated(layout_for(run.spec.ring), {name: uploads[name] for name in names(4)})
    assert all((total[key] == plain[key]).all() for key in plain)


def test_late_uploads_are_refused() -> None:
    """Its mask key may be out already: its own mask is all that hides it, and stays."""
    run = Run.of(5, {"upload": ["silo-04"]})
    layout = layout_for(run.spec.ring)
    uploads = uploads_of(layout, run.clients)
    run.upload(shown_for(layout), uploads)
    assert not run.server.take_upload("silo-04", uploads["silo-04"])
    assert "phase upload in phase confirm" in run.server.refused["silo-04"]


def test_bad_confirmations_are_dropouts() -> None:
    run = Run.of(5, {"upload": ["silo-04"]}, confirm=True)
    layout = layout_for(run.spec.ring)
    survivors = run.upload(shown_for(layout), uploads_of(layout, run.clients))
    message = run.clients[BAD].confirm(survivors)
    take = run.server.take_confirmation
    forged = edited(message, "signature", lambda s: IDENTITIES[BAD].sign(b"other"))
    refused(run.server, take, forged, "signature of silo-01")
    assert not take("silo-04", message)
    assert "did not upload" in run.server.refused["silo-04"]
    assert take(BAD, message)


def revealing(count: int = 5, gone: tuple[str, ...] = ("silo-04",)) -> tuple[Run, bytes]:
    run = Run.of(count, {"upload": gone})
    layout = layout_for(run.spec.ring)
    run.upload(shown_for(layout), uploads_of(layout, run.clients))
    return run, run.server.unmasking()


def is_dict(value: object) -> bool:
    return isinstance(value, dict)


def reveal(message: bytes, kind: str, name: str, share: bytes) -> bytes:
    fields = unpack(message, "message", session=bool, seeds=is_dict, mask_keys=is_dict)
    fields[kind] = fields[kind] | {name: share}
    return pack(fields)


def test_bad_reveals_are_dropouts() -> None:
    run, request = revealing()
    message = run.clients[BAD].unmask(request)
    take = run.server.take_unmasked
    refused(run.server, take, reveal(message, "seeds", "silo-04", bytes(33)), "shares must be")
    refused(run.server, take, reveal(message, "mask_keys", BAD, bytes(33)), "shares must be")
    refused(run.server, take, reveal(message, "seeds", BAD, bytes(32)), "malformed")
    assert not take("silo-04", message)
    assert take(BAD, message)


@pytest.mark.parametrize(("kind", "whose"), [("seeds", "silo-00"), ("mask_keys", "silo-04")])
def test_wrong_shares_void_the_session_where_nobody_is_to_spare(kind: str, whose: str) -> None:
    run, request = revealing()
    for name in names(4):
        message = run.clients[name].unmask(request)
        if name == BAD:
            message = reveal(message, kind, whose, os.urandom(32).rjust(33, b"\0"))
        assert run.server.take_unmasked(name, message)
    with pytest.raises(SecAggAbort, match=f"the shares of {whose} are wrong; session 7 is void"):
        run.server.total()


@pytest.mark.parametrize(("kind", "whose"), [("seeds", "silo-00"), ("mask_keys", "silo-06")])
def test_one_silo_with_wrong_shares_is_gone_around(kind: str, whose: str) -> None:
    run, request = revealing(7, ("silo-06",))
    for name in names(6):
        message = run.clients[name].unmask(request)
        if name == BAD:
            message = reveal(message, kind, whose, os.urandom(32).rjust(33, b"\0"))
        assert run.server.take_unmasked(name, message)
    layout = layout_for(run.spec.ring)
    plain = simulated(layout, {n: uploads_of(layout, names(7))[n] for n in names(6)})
    total = run.server.total()
    assert all((total[key] == plain[key]).all() for key in plain)


def test_the_sum_needs_a_layout_of_the_sessions_ring() -> None:
    run = Run.of(4)
    run.share()
    with pytest.raises(RunError, match="call open_uploads first"):
        run.server.take_upload(BAD, {"tensors": np.zeros(1, "<u4")})
    with pytest.raises(RunError, match="not that of the session"):
        run.server.open_uploads(shown_for(layout_for(Ring(32, 5))))
