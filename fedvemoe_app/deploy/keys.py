"""The three kinds of keys of a deployment, as files.

TLS: the consortium's certificate authority signs SuperLink's certificate. Node keys: SuperLink
admits SuperNodes whose public keys were registered (ECDSA P-384, in OpenSSH's format). Identity
keys: silos know each other by a roster that the consortium signed, whatever the server says.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedvemoe_app.secagg.roster import Identity, Roster

CURVE = ec.SECP384R1
VALID = timedelta(days=365)
CA, CERTIFICATE, KEY = "ca.crt", "server.pem", "server.key"
ROSTER, CONSORTIUM = "roster.json", "consortium"


def write_certificates(folder: Path, hosts: Sequence[str]) -> None:
    """Write an authority's certificate, and a server's key and certificate for ``hosts``.

    The authority's own key is used once and not kept. Hosts are names or addresses.
    """
    authority, server = ec.generate_private_key(CURVE()), ec.generate_private_key(CURVE())
    issuer = _named("Fed-VEMoE consortium on this machine")
    root = _certificate(issuer, issuer, authority.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(_usage(), critical=True)
    leaf = _certificate(_named(hosts[0]), issuer, server.public_key())
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(x509.SubjectAlternativeName(map(_host, hosts)), critical=False)
    serves = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    leaf = leaf.add_extension(serves, critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    leaf = leaf.add_extension(by, critical=False)  # Python 3.13 accepts none without it
    folder.mkdir(parents=True, exist_ok=True)
    for name, unsigned in ((CA, root), (CERTIFICATE, leaf)):
        signed = unsigned.sign(authority, hashes.SHA384())
        (folder / name).write_bytes(signed.public_bytes(Encoding.PEM))
    pem = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / KEY, pem)


def write_node_key(private: Path) -> Path:
    """Write a SuperNode's private key; return the file of its public key, ``private`` + .pub."""
    key = ec.generate_private_key(CURVE())
    write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = private.with_name(f"{private.name}.pub")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    public.write_bytes(line + f" {private.name}\n".encode())
    return public


def write_identities(folder: Path, silos: Iterable[str]) -> str:
    """Write each silo's identity key and the signed roster; return the consortium's key in hex."""
    consortium = Identity.create(CONSORTIUM)
    identities = [Identity.create(silo) for silo in silos]
    roster = Roster({identity.name: identity.public for identity in identities})
    folder.mkdir(parents=True, exist_ok=True)
    for identity in (consortium, *identities):
        write_private(folder / f"{identity.name}.pem", identity.to_pem().encode())
    (folder / ROSTER).write_text(roster.sign(consortium), encoding="utf-8")
    return consortium.public.hex()


def write_private(file: Path, content: bytes) -> None:
    """Write a new file that its owner alone may read, from the first byte on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage() -> x509.KeyUsage:
    """Return the usage of an authority: it signs certificates, and nothing else."""
    return x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + VALID)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
