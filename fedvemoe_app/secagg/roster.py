"""Identity keys: who is who, agreed by the consortium out of band and pinned at every silo.

A server could otherwise hand each silo keys of its own making and read everything. Each silo
makes an ``Identity`` and sends its public key to the consortium, which signs a ``Roster`` of
all; silos pin the consortium's public key, or the roster's fingerprint, in their own settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedvemoe_app.errors import SettingError
from fedvemoe_app.jsontext import parse
from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.keys import derive
from fedvemoe_app.secagg.spec import check_name

SIGNATURE_BYTES = 64
_PUBLIC_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """A name and its Ed25519 private key, which never leaves its owner."""

    name: str
    private: Ed25519PrivateKey

    @classmethod
    def create(cls, name: str) -> Self:
        """Make a new identity; raises SettingError for a name that cannot be used."""
        check_name(name, "silo")
        return cls(name, Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        """The public key [32]."""
        return self.private.public_key().public_bytes_raw()

    @property
    def storage_key(self) -> bytes:
        """A key [32] under which this owner seals what it stores."""
        return derive(self.private.private_bytes_raw(), digest("storage"))

    def sign(self, message: bytes) -> bytes:
        """Return the signature [64] of a digest, whose label tells its purpose."""
        return self.private.sign(message)

    def to_pem(self) -> str:
        """Return the private key as unencrypted PKCS#8 text, to be kept like a password."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @classmethod
    def from_pem(cls, name: str, text: str) -> Self:
        """Return the identity of ``to_pem``; raises SettingError for any other text."""
        check_name(name, "silo")
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingError(
                f"identity of {name}: not an Ed25519 key in PEM form; "
                "make one with `fedvemoe roster create`"
            )
        return cls(name, key)


@dataclass(frozen=True)
class Roster:
    """Public identity keys [32] by silo name."""

    members: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for name, key in self.members.items():
            check_name(name, "roster: silo")
            if len(key) != _PUBLIC_BYTES:
                raise SettingError(f"roster: key of {name} has {len(key)} bytes, not 32")
        if len(set(self.members.values())) != len(self.members):
            raise SettingError("roster: two silos have one key; each silo makes its own")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the members, in hex; the same wherever the same roster is pinned."""
        return self._digest().hex()

    def _digest(self) -> bytes:
        parts: list[bytes | str] = []
        for name in sorted(self.members):
            parts += [name, self.members[name]]
        return digest("roster", *parts)

    def check(self, name: str, message: bytes, signature: bytes) -> None:
        """Raise SecAggRefusal unless ``name`` signed ``message``."""
        if name not in self.members:
            raise SecAggRefusal(f"{name} is not in the pinned roster")
        try:
            Ed25519PublicKey.from_public_bytes(self.members[name]).verify(signature, message)
        except InvalidSignature:
            raise SecAggRefusal(f"the signature of {name} does not hold") from None

    def sign(self, consortium: Identity) -> str:
        """Return the roster's file: canonical JSON with the consortium's signature."""
        document = {
            "members": {name: key.hex() for name, key in self.members.items()},
            "signature": consortium.sign(self._digest()).hex(),
        }
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    @classmethod
    def verify(cls, text: str, consortium: bytes) -> Self:
        """Return the roster of ``sign``; SettingError unless the key ``consortium`` signed it."""
        members, signature = _parsed(text)
        roster = cls(members)
        try:
            Ed25519PublicKey.from_public_bytes(consortium).verify(signature, roster._digest())
        except (InvalidSignature, ValueError):
            raise SettingError(
                "roster: not signed by the pinned consortium key; "
                "ask the consortium for its roster, or pin the right key"
            ) from None
        return roster


def read_roster(path: str, consortium_key: str) -> Roster:
    """Return the roster in a file; SettingError unless the key (64 hex digits) signed it."""
    try:
        key = bytes.fromhex(consortium_key)
        return Roster.verify(Path(path).read_text(encoding="utf-8"), key)
    except ValueError:
        raise SettingError(f"consortium-key = {consortium_key}: must be 64 hex digits") from None
    except OSError as error:
        raise SettingError(f"roster = {path} cannot be read: {error.strerror}") from None


def _parsed(text: str) -> tuple[dict[str, bytes], bytes]:
    try:
        document = parse(text)
        members = {str(name): bytes.fromhex(key) for name, key in document["members"].items()}
        return members, bytes.fromhex(document["signature"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SettingError(
            "roster: expected JSON with members (name: 64 hex digits) and a signature; "
            "make it with `fedvemoe roster sign`"
        ) from None
