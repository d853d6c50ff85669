"""Fresh keys for one sum: agreement (X25519), derivation (HKDF-SHA256), sealing (AES-256-GCM).

Every derived key names its purpose, its session and both ends, so no key serves two purposes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedvemoe_app.secagg.errors import SecAggRefusal

KEY_BYTES = 32
_NONCE_BYTES = 12


def fresh_secret() -> bytes:
    """Return a fresh secret [32], which may serve as an X25519 private key."""
    return os.urandom(KEY_BYTES)


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key [32] of ``private``."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, publics: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the secret [32] shared with each peer; SecAggRefusal for a public key of low order.

    The private key is loaded once: that costs as much as an agreement.
    """
    own = X25519PrivateKey.from_private_bytes(private)
    try:
        return {
            peer: own.exchange(X25519PublicKey.from_public_bytes(public))
            for peer, public in publics.items()
        }
    except ValueError:
        raise SecAggRefusal("a peer's public key is not a key") from None


def derive(secret: bytes, info: bytes, size: int = KEY_BYTES) -> bytes:
    """Return a key [size] for the purpose ``info``."""
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(secret)


def seal(key: bytes, plaintext: bytes, bound_to: bytes) -> bytes:
    """Return nonce, ciphertext and tag; it opens only with ``key`` and the same ``bound_to``."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound_to)


def unseal(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    """Return what ``seal`` was given; SecAggRefusal if anything differs."""
    nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, bound_to)
    except (InvalidTag, ValueError):
        raise SecAggRefusal("a sealed message was tampered with or is not for this place") from None
