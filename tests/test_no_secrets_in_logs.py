"""Keys, seeds and shares stay out of logs, journal and progress, even where all is logged."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.secagg import keys, memory
from fedvemoe_app.secagg.roster import Identity
from tests.federation import Settings, federate

SMALL: Settings = {
    "num-server-rounds": 1,
    "start": "none",
    "local-steps": 1,
    "target-modules": "q_proj",
    "generate-examples": 0,
    "eval-examples": 1,
    "privacy": "secagg",
    "c-min": 1,
}


def forms(secret: bytes) -> list[bytes]:
    """Return how a secret might be written down."""
    return [secret, secret.hex().encode(), b64encode(secret)[:-2], repr(secret)[2:-1].encode()]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every secret that the protocol makes or agrees on."""
    found: list[bytes] = []

    def noted(secret: bytes) -> bytes:
        found.append(secret)
        return secret

    fresh, derive = keys.fresh_secret, keys.derive
    monkeypatch.setattr(keys, "fresh_secret", lambda: noted(fresh()))
    monkeypatch.setattr(keys, "derive", lambda *what, **how: noted(derive(*what, **how)))
    shares_of = memory.Session.shares_of

    def noted_shares(session: memory.Session, name: str) -> tuple[bytes, bytes]:
        found.extend(shares := shares_of(session, name))
        return shares

    monkeypatch.setattr(memory.Session, "shares_of", noted_shares)
    return found


def test_a_run_of_masked_sums_writes_no_secret_down(
    made: list[bytes],
    settings: Callable[..., Settings],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("flwr").setLevel(logging.DEBUG)
    identities: list[bytes] = []

    def note(grid: InProcessGrid) -> None:
        from fedvemoe_app.secagg.simulated import simulated_identity

        for index in range(len(grid.contexts)):
            own: Identity = simulated_identity(f"silo-{index:02d}", 0)
            identities.extend([own.private.private_bytes_raw(), own.storage_key])
            identities.extend(line.encode() for line in own.to_pem().splitlines()[1:-1])

    def tamper(message: Message, reply: Message) -> Message | None:
        lost = message.metadata.dst_node_id == 3 and message.metadata.message_type == "train"
        return None if lost else reply  # so that a silo's mask key is put together, too

    run = federate({**settings(), **SMALL}, tamper=tamper, prepare=note)
    assert len(made) > 50
    said = caplog.text + "".join(capfd.readouterr())
    files = [path for path in run.folder.rglob("*") if path.suffix in (".json", ".jsonl", ".html")]
    texts = {path.name: path.read_bytes() for path in files} | {"log": said.encode()}
    assert {"events.jsonl", "progress.jsonl", "rounds.jsonl", "log"} <= texts.keys()
    assert b"did not take part" in texts["log"]
    for name, text in texts.items():
        for secret in (*made, *identities):
            assert not any(form in text for form in forms(secret)), name
