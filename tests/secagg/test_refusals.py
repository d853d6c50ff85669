"""Attacks by the server or on the wire: each is refused by a silo, or voids the round.

Removed by hand in ``client``, ``memory`` or ``transcript``, each turned a test here red:

 1 signatures on advertisements            2 own advertisement unchanged
 3 distinct keys                           4 advertisers of the cohort only
 5 enough advertisers                      6 rounds never repeat
 7 place of sealed shares (AAD)            8 shares from advertisers only
 9 enough sharers                         10 shares have their size
11 each step once and in order            12 own name among survivors
13 survivors among sharers                14 enough survivors
15 survivors are those confirmed          16 enough signatures on them
17 those signatures hold                  18 one set of survivors per model
19 masks bound to the model               20 masks bound to the settings
21 masks bound to the steps               22 masks bound to who shared
23 secrets erased                         24 stored state sealed
25 the layout's ring is the session's     26 policy asked at all
27 old sessions forgotten                 28 signatures bound to the session
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.codec import pack, unpack
from fedvemoe_app.secagg.errors import SecAggAbort, SecAggRefusal
from fedvemoe_app.secagg.keys import public_key
from fedvemoe_app.secagg.layout import Field, Layout
from fedvemoe_app.secagg.memory import MAX_SESSIONS
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import Policy
from fedvemoe_app.secagg.transcript import Advertisement, Shown
from tests.secagg.consortium import (
    IDENTITIES,
    ROSTER,
    Run,
    layout_for,
    member,
    memory_of,
    names,
    shown_for,
    silos,
    spec_for,
    uploads_of,
)

VICTIM = "silo-00"


def anything(value: object) -> bool:
    return True


def fields_of(message: bytes, *keys: str) -> dict[str, object]:
    return unpack(message, "message", **dict.fromkeys(("session", *keys), anything))


def changed(message: bytes, **fields: object) -> bytes:
    return pack(fields_of(message, *fields) | fields)


def adverts_of(run: Run) -> dict[str, dict[str, bytes]]:
    return fields_of(run.advertise(), "adverts")["adverts"]  # type: ignore[return-value]


def refuses_adverts(run: Run, adverts: object, says: str) -> None:
    message = pack({"session": run.spec.session, "adverts": adverts})
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].share(message)


def prepared(count: int = 5, **settings: object) -> tuple[Run, Shown, dict]:
    run = Run.of(count, **settings)
    layout = layout_for(run.spec.ring)
    return run, shown_for(layout), uploads_of(layout, run.clients)


# Advertisements.


def test_a_substituted_key_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    for key in ("mask_key", "share_key", "commitment"):
        forged = adverts["silo-01"] | {key: public_key(os.urandom(32))}
        refuses_adverts(run, adverts | {"silo-01": forged}, "signature of silo-01")


def test_a_key_signed_for_another_session_round_or_phase_is_refused() -> None:
    for spec in (spec_for(4), spec_for(4, round_=8), replace(spec_for(4), phase="statistics")):
        run = Run.of(4)
        adverts = adverts_of(run)
        other = Client(member("silo-01")).advertise(spec.to_bytes())
        forged = fields_of(other, "advert")["advert"]
        refuses_adverts(run, adverts | {"silo-01": forged}, "signature of silo-01")


def test_a_silo_under_another_name_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    refuses_adverts(run, adverts | {"silo-02": adverts["silo-01"]}, "signature of silo-02")


def test_a_replaced_own_key_is_refused() -> None:
    """Even a validly signed one, from an earlier run of this silo."""
    run = Run.of(4)
    adverts = adverts_of(run)
    twin = fields_of(Client(member(VICTIM)).advertise(run.spec.to_bytes()), "advert")["advert"]
    refuses_adverts(run, adverts | {VICTIM: twin}, "own advertisement")
    del adverts[VICTIM]
    refuses_adverts(run, adverts, "own advertisement")


def test_a_copied_key_is_refused() -> None:
    """A colluding silo signs the key of another as its own."""
    run = Run.of(4)
    adverts = adverts_of(run)
    for key in ("mask_key", "share_key"):
        copied = adverts["silo-01"]["mask_key"]
        keys = {"mask_key": os.urandom(32), "share_key": os.urandom(32)} | {key: copied}
        forged = Advertisement.signed(run.spec, IDENTITIES["silo-02"], seed=bytes(32), **keys)
        refuses_adverts(run, adverts | {"silo-02": forged.fields()}, "the same")


def test_a_silo_outside_the_cohort_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    sybil = Advertisement.signed(
        run.spec, IDENTITIES["silo-09"], os.urandom(32), os.urandom(32), bytes(32)
    )
    refuses_adverts(run, adverts | {"silo-09": sybil.fields()}, "silo-09 is not in the cohort")


def test_too_few_advertisers_are_refused() -> None:
    run = Run.of(5)
    adverts = adverts_of(run)
    refuses_adverts(run, {name: adverts[name] for name in names(3)}, "3 silos advertised, below 4")


def test_a_key_of_low_order_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    weak = Advertisement.signed(
        run.spec, IDENTITIES["silo-01"], os.urandom(32), bytes(32), bytes(32)
    )
    refuses_adverts(run, adverts | {"silo-01": weak.fields()}, "not a key")


@pytest.mark.parametrize("field", ["mask_key", "share_key", "commitment", "signature"])
def test_malformed_advertisements_are_refused(field: str) -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    short = adverts["silo-01"] | {field: adverts["silo-01"][field][:-1]}
    less = {key: value for key, value in adverts["silo-01"].items() if key != field}
    for bad in (short, less, [], "text"):
        refuses_adverts(run, adverts | {"silo-01": bad}, "field adverts is malformed")


# Sessions.


def test_a_round_never_repeats() -> None:
    client = Client(member(VICTIM))
    first = spec_for(4, round_=7)
    client.advertise(first.to_bytes())
    for spec in (first, spec_for(4, round_=7), spec_for(4, round_=6)):
        with pytest.raises(SecAggRefusal, match="rounds never repeat"):
            client.advertise(spec.to_bytes())
    client = Client.from_bytes(member(VICTIM), client.to_bytes())
    with pytest.raises(SecAggRefusal, match="rounds never repeat"):
        client.advertise(spec_for(4, round_=7).to_bytes())
    client.advertise(replace(spec_for(4, round_=7), phase="statistics").to_bytes())
    client.advertise(spec_for(4, round_=8).to_bytes())


def test_the_policy_is_asked_before_keys_are_made() -> None:
    client = Client(member(VICTIM, Policy(modes=("sim",))))
    with pytest.raises(SecAggRefusal, match="privacy = secagg is not accepted"):
        client.advertise(spec_for(4).to_bytes())
    assert memory_of(client).sessions == []


def test_messages_of_unknown_sessions_are_refused() -> None:
    run, other = Run.of(4), Run.of(4)
    adverts = run.advertise()
    other.clients[VICTIM].advertise(other.spec.to_bytes())
    with pytest.raises(SecAggRefusal, match="advertised nothing for this session"):
        other.clients[VICTIM].share(adverts)
    with pytest.raises(SecAggRefusal, match="advertised nothing for this session"):
        run.clients[VICTIM].share(changed(adverts, session=bytes(16), adverts={}))


def test_old_sessions_are_forgotten() -> None:
    client = Client(member(VICTIM))
    for round_ in range(MAX_SESSIONS + 3):
        client.advertise(spec_for(4, round_=round_).to_bytes())
    kept = [session.spec.round for session in memory_of(client).sessions]
    assert kept == list(range(3, MAX_SESSIONS + 3))


def test_each_step_is_taken_once_and_in_order() -> None:
    run, shown, uploads = prepared(confirm=True)
    client, session = run.clients[VICTIM], run.spec.session

    def refused(*steps: object) -> None:
        for step in steps:
            with pytest.raises(SecAggRefusal, match="once"):
                step()  # type: ignore[operator]

    everyone = {"survivors": names(5)}
    early_inbox = pack({"session": session, "sealed": {}})
    early_confirm = pack({"session": session, **everyone})
    early_unmask = pack({"session": session, **everyone, "signatures": {}})
    late = {
        "mask": lambda: client.mask(session, shown, uploads[VICTIM]),
        "receive": lambda: client.receive(early_inbox),
        "confirm": lambda: client.confirm(early_confirm),
        "unmask": lambda: client.unmask(early_unmask),
    }
    adverts = run.advertise()
    refused(late["receive"], late["mask"], late["confirm"], late["unmask"])
    for name in run.clients:
        assert run.server.take_shares(name, run.clients[name].share(adverts))
    refused(lambda: client.share(adverts), late["mask"], late["confirm"], late["unmask"])
    run.server.open_uploads(shown)
    for name, inbox in run.server.inboxes().items():
        run.clients[name].receive(inbox)
    refused(lambda: client.share(adverts), late["receive"], late["confirm"], late["unmask"])
    for name in run.clients:
        lanes = run.clients[name].mask(session, shown, uploads[name])
        assert run.server.take_upload(name, lanes)
    refused(late["receive"], late["mask"])
    survivors = run.server.survivors()
    for name in run.clients:
        assert run.server.take_confirmation(name, run.clients[name].confirm(survivors))
    refused(late["mask"], late["confirm"])
    request = run.server.unmasking()
    assert run.server.take_unmasked(VICTIM, client.unmask(request))
    refused(late["mask"], late["receive"], late["confirm"], lambda: client.unmask(request))


# Shares.


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


# Masking.


def void(run: Run, shown: Shown, uploads: dict, seen: dict[str, Shown]) -> None:
    with pytest.raises(SecAggAbort, match="does not add up; round 7 is void"):
        run.unmask(shown, uploads, seen)


def test_a_silo_shown_another_model_voids_the_round() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(shown.layout, model=1)})


def test_a_silo_shown_other_settings_voids_the_round() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(shown.layout, config=b"lr=2")})


def test_a_silo_shown_other_steps_voids_the_round() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(layout_for(run.spec.ring, step=0.5))})


def test_a_model_is_told_apart_by_names_types_shapes_and_values() -> None:
    layout = layout_for(Ring(32, 4))
    models = [
        {"a": np.zeros(4)},
        {"b": np.zeros(4)},
        {"a": np.zeros((2, 2))},
        {"a": np.zeros(4, np.int64)},
        {"a": np.array([0, 0, 0, 1e-9])},
        {"a": np.zeros(4), "b": np.zeros(1)},
    ]
    assert len({Shown.of(model, b"", layout).hash for model in models}) == len(models)
    transposed = np.arange(6.0).reshape(2, 3).T
    plain = Shown.of({"a": np.ascontiguousarray(transposed)}, b"", layout)
    assert Shown.of({"a": transposed}, b"", layout) == plain


def test_different_views_of_who_shared_void_the_round() -> None:
    """Silo 4 shared; the victim is told that it did not."""
    run, shown, uploads = prepared(5)
    inboxes = run.share()
    sealed = fields_of(inboxes[VICTIM], "sealed")["sealed"]
    del sealed["silo-04"]  # type: ignore[attr-defined]
    inboxes[VICTIM] = pack({"session": run.spec.session, "sealed": sealed})
    run.server.open_uploads(shown)
    for name, client in run.clients.items():
        client.receive(inboxes[name])
        lanes = client.mask(run.spec.session, shown, uploads[name])
        if name != "silo-04":
            run.server.take_upload(name, lanes)
    bindings = {name: memory_of(run.clients[name]).sessions[0].binding for name in names(4)}
    assert len({bindings[name] for name in names(4)[1:]}) == 1
    assert bindings[VICTIM] != bindings["silo-01"]
    run.server.survivors()
    request = run.server.unmasking()
    for name in names(4):
        run.server.take_unmasked(name, run.clients[name].unmask(request))
    with pytest.raises(SecAggAbort, match=r"phase unmask: .* round 7 is void"):
        run.server.total()


def test_lanes_of_another_ring_or_layout_are_refused() -> None:
    run, _, uploads = prepared(4)
    for name, inbox in run.share().items():
        run.clients[name].receive(inbox)
    client, session = run.clients[VICTIM], run.spec.session
    wider = layout_for(Ring(32, 9))
    with pytest.raises(SecAggRefusal, match="ring is not that of the session"):
        client.mask(session, shown_for(wider), uploads[VICTIM])
    longer = Layout((Field("delta", (99,), "tensors"),), run.spec.ring)
    with pytest.raises(SecAggRefusal, match="differs from the layout"):
        client.mask(session, shown_for(longer), uploads[VICTIM])


def test_secrets_are_gone_after_use() -> None:
    run, shown, uploads = prepared(4)
    adverts = run.advertise()
    client = run.clients[VICTIM]
    advertised = memory_of(client).sessions[0]
    for name in run.clients:
        assert run.server.take_shares(name, run.clients[name].share(adverts))
    assert _stored(client).isdisjoint({advertised.share_private})
    share_keys = memory_of(client).sessions[0].share_keys
    assert len(share_keys) == 3
    client.receive(run.server.inboxes()[VICTIM])
    assert _stored(client).isdisjoint(share_keys.values())
    assert _stored(client) >= {advertised.mask_private, advertised.seed}
    client.mask(run.spec.session, shown, uploads[VICTIM])
    assert _stored(client).isdisjoint({advertised.mask_private, advertised.seed})
    request = {"session": run.spec.session, "survivors": names(4), "signatures": {}}
    client.unmask(pack(request))
    assert _stored(client) == {b""}


def _stored(client: Client) -> set[bytes]:
    session = memory_of(client).sessions[0]
    keys = {session.mask_private, session.share_private, session.seed}
    return keys | set(session.share_keys.values()) | set(session.held.values())


def test_stored_state_is_sealed() -> None:
    run = Run.of(4)
    run.share()
    client = run.clients[VICTIM]
    session = memory_of(client).sessions[0]
    state = client.to_bytes()
    for secret in (session.mask_private, session.seed, *session.share_keys.values()):
        assert len(secret) == 32
        assert secret not in state
        assert secret.hex().encode() not in state
    with pytest.raises(SecAggRefusal, match="tampered"):
        Client.from_bytes(member("silo-01"), state)
    with pytest.raises(SecAggRefusal, match="tampered"):
        Client.from_bytes(member(VICTIM), state[:-1] + bytes([state[-1] ^ 1]))


# Survivors.


def masked(count: int = 5, gone: tuple[str, ...] = (), **settings: object) -> Run:
    run, shown, uploads = prepared(count, **settings)
    run.gone = {"upload": gone}
    run.upload(shown, uploads)
    return run


def asks(run: Run, survivors: list[str]) -> bytes:
    return pack({"session": run.spec.session, "survivors": survivors, "signatures": {}})


@pytest.mark.parametrize(
    ("survivors", "says"),
    [
        (names(5)[1:], "survivors must be this silo"),
        ([*names(5), "silo-09"], "others who shared"),
        (names(3), "3 survivors, below 4"),
        (list(reversed(names(5))), "malformed"),
        ([*names(4), "silo-03"], "malformed"),
    ],
)
def test_impossible_survivors_are_refused(survivors: list[str], says: str) -> None:
    run = masked()
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].unmask(asks(run, survivors))


def test_fewer_survivors_than_agreed_are_refused_above_the_threshold_too() -> None:
    run = masked(min_survivors=5)
    with pytest.raises(SecAggRefusal, match="4 survivors, below 5"):
        run.clients[VICTIM].unmask(asks(run, names(4)))


def test_no_silo_reveals_both_shares_of_a_peer() -> None:
    """Whatever is asked, one answer, with one share per sharer."""
    run = masked()
    reply = fields_of(run.clients[VICTIM].unmask(asks(run, names(4))), "seeds", "mask_keys")
    assert sorted(reply["seeds"]) == names(4)  # type: ignore[call-overload]
    assert sorted(reply["mask_keys"]) == ["silo-04"]  # type: ignore[call-overload]
    with pytest.raises(SecAggRefusal, match="once"):
        run.clients[VICTIM].unmask(asks(run, names(5)))


def test_split_survivors_never_give_both_secrets_of_a_silo() -> None:
    """Without confirmations: however the server splits its story, one of the two stays short."""
    for told in range(6):
        run = masked()
        seeds = mask_keys = 0
        for i, name in enumerate(names(5)):
            story = names(5) if i < told else [n for n in names(5) if n != "silo-04"]
            if name not in story:
                continue
            reply = fields_of(run.clients[name].unmask(asks(run, story)), "seeds", "mask_keys")
            seeds += "silo-04" in reply["seeds"]  # type: ignore[operator]
            mask_keys += "silo-04" in reply["mask_keys"]  # type: ignore[operator]
        assert min(seeds, mask_keys) < run.spec.threshold


def confirming() -> tuple[Run, dict[str, bytes]]:
    """A session of 5 whose silos have signed that all of them survived."""
    run = masked(5, confirm=True)
    request = pack({"session": run.spec.session, "survivors": names(5)})
    signatures = {}
    for name, client in run.clients.items():
        reply = client.confirm(request)
        signatures[name] = fields_of(reply, "signature")["signature"]
    return run, signatures  # type: ignore[return-value]


def refuses_unmask(run: Run, survivors: list[str], signatures: dict, says: str) -> None:
    fields = {"session": run.spec.session, "survivors": survivors, "signatures": signatures}
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].unmask(pack(fields))


def test_other_survivors_than_confirmed_are_refused() -> None:
    run, signatures = confirming()
    refuses_unmask(run, names(4), {n: signatures[n] for n in names(4)}, "not the survivors")


def test_survivors_that_were_never_confirmed_are_refused() -> None:
    refuses_unmask(masked(5, confirm=True), names(5), {}, "not the survivors")


def test_split_survivors_are_found_out_by_their_signatures() -> None:
    """The others signed a different set than the one shown to the victim."""
    run = masked(5, confirm=True)
    story = pack({"session": run.spec.session, "survivors": names(4)})
    truth = pack({"session": run.spec.session, "survivors": names(5)})
    signatures = {}
    for name in names(4):
        reply = run.clients[name].confirm(truth if name == VICTIM else story)
        signatures[name] = fields_of(reply, "signature")["signature"]
    others = {name: signatures[name] for name in names(4)[1:]}
    refuses_unmask(run, names(5), others, "3 signatures on the survivors, need 4")
    refuses_unmask(run, names(5), signatures, "signature of silo-01 does not hold")


def test_signatures_of_strangers_and_of_another_session_do_not_count() -> None:
    run, signatures = confirming()
    _, elsewhere = confirming()
    stranger = signatures | {"silo-09": signatures["silo-01"]}
    refuses_unmask(run, names(5), stranger, "signatures on the survivors")
    refuses_unmask(run, names(5), signatures | {"silo-01": elsewhere["silo-01"]}, "does not hold")


def test_one_model_is_unmasked_for_one_set_of_survivors() -> None:
    """The difference of two sums over four and five silos would be the fifth's numbers."""
    first, shown, uploads = prepared()
    first.unmask(shown, uploads)
    same, different = Run.of(5, round_=8), Run.of(5, {"upload": ["silo-04"]}, round_=9)
    next_model = Run.of(5, {"upload": ["silo-04"]}, round_=10)
    for run in (same, different, next_model):
        run.clients = first.clients
    same.unmask(shown, uploads)
    with pytest.raises(SecAggRefusal, match="unmasked before, for other survivors"):
        different.unmask(shown, uploads)
    next_model.unmask(shown_for(shown.layout, model=1), uploads)


def test_repeats_may_be_allowed_by_the_silo() -> None:
    first, shown, uploads = prepared()
    first.clients = silos(5, Policy(allow_repeats=True))
    first.unmask(shown, uploads)
    second = Run.of(5, {"upload": ["silo-04"]}, round_=8)
    second.clients = first.clients
    second.unmask(shown, uploads)


def test_server_and_silos_speak_of_one_session() -> None:
    """A reply to one session is worth nothing in another."""
    run, other = Run.of(4), Server(spec_for(4, round_=8), ROSTER)
    reply = run.clients[VICTIM].advertise(run.spec.to_bytes())
    assert not other.take_advertisement(VICTIM, reply)
    assert "another session" in other.refused[VICTIM]
