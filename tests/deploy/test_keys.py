"""The keys of a deployment: each kind does its job, and private ones are nobody else's to read."""

from __future__ import annotations

import http.server
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedvemoe_app.deploy.keys import (
    CA,
    CERTIFICATE,
    KEY,
    write_certificates,
    write_identities,
    write_node_key,
)
from fedvemoe_app.flower.programs.processes import healthy
from fedvemoe_app.secagg.roster import Identity, read_roster


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *what: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """A server with certificates from here; yields its port."""
    write_certificates(tmp_path, ("127.0.0.1", "localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / CERTIFICATE, tmp_path / KEY)
    httpd = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield int(httpd.server_address[1])
    httpd.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_authority_vouches_for_the_server(host: str, server: int, tmp_path: Path) -> None:
    assert healthy(f"{host}:{server}", tmp_path / CA)


def test_and_no_other_authority_does(server: int, tmp_path: Path) -> None:
    write_certificates(tmp_path / "other", ("127.0.0.1",))
    assert not healthy(f"127.0.0.1:{server}", tmp_path / "other" / CA)


def test_the_certificates_hold_under_strict_rules(server: int, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / CA))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with (
        socket.create_connection(("127.0.0.1", server)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.version() == "TLSv1.3"


def test_it_vouches_for_the_named_hosts_alone(tmp_path: Path) -> None:
    text = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
    write_certificates(tmp_path, ("superlink.example.org",))
    decoded = text(str(tmp_path / CERTIFICATE))
    assert decoded["subjectAltName"] == (("DNS", "superlink.example.org"),)


def test_a_node_key_is_of_the_kind_that_flower_takes(tmp_path: Path) -> None:
    public = write_node_key(tmp_path / "silo-00.node")
    private = load_ssh_private_key((tmp_path / "silo-00.node").read_bytes(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert load_ssh_public_key(public.read_bytes()) == private.public_key()


def test_the_roster_holds_the_keys_of_the_silos(tmp_path: Path) -> None:
    key = write_identities(tmp_path, ("silo-00", "silo-01"))
    roster = read_roster(str(tmp_path / "roster.json"), key)
    for name, public in roster.members.items():
        assert Identity.from_pem(name, (tmp_path / f"{name}.pem").read_text()).public == public
    assert sorted(roster.members) == ["silo-00", "silo-01"]


def test_private_keys_are_their_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    write_certificates(tmp_path, ("localhost",))
    write_node_key(tmp_path / "silo-00.node")
    write_identities(tmp_path, ("silo-00",))
    private = {KEY, "silo-00.node", "silo-00.pem", "consortium.pem"}
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == private
    with pytest.raises(FileExistsError):
        write_node_key(tmp_path / "silo-00.node")
