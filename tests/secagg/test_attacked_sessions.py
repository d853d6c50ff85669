"""Attacks on the order of things: replays, foreign sessions, steps twice, stolen state.

Removed by hand, each turned a test here red: sessions never repeat; the policy is asked; each step
once and in order; messages find their session; old sessions forgotten; each secret erased as soon
as it is used; stored state sealed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.codec import pack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.memory import MAX_SESSIONS
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import Policy
from tests.secagg.attack import VICTIM, changed, prepared
from tests.secagg.consortium import (
    ROSTER,
    Run,
    member,
    memory_of,
    names,
    spec_for,
)


def test_a_session_never_repeats() -> None:
    client = Client(member(VICTIM))
    first = spec_for(4, serial=7)
    client.advertise(first.to_bytes())
    for spec in (first, spec_for(4, serial=7), spec_for(4, serial=6)):
        with pytest.raises(SecAggRefusal, match="sessions never repeat"):
            client.advertise(spec.to_bytes())
    client = Client.from_bytes(member(VICTIM), client.to_bytes())
    with pytest.raises(SecAggRefusal, match="sessions never repeat"):
        client.advertise(spec_for(4, serial=7).to_bytes())
    client.advertise(replace(spec_for(4, serial=7), phase="statistics").to_bytes())
    client.advertise(spec_for(4, serial=8).to_bytes())


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
    for serial in range(MAX_SESSIONS + 3):
        client.advertise(spec_for(4, serial=serial).to_bytes())
    kept = [session.spec.serial for session in memory_of(client).sessions]
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


def test_server_and_silos_speak_of_one_session() -> None:
    """A reply to one session is worth nothing in another."""
    run, other = Run.of(4), Server(spec_for(4, serial=8), ROSTER)
    reply = run.clients[VICTIM].advertise(run.spec.to_bytes())
    assert not other.take_advertisement(VICTIM, reply)
    assert "another session" in other.refused[VICTIM]
