"""Identities of simulated silos: derived from a seed, so that all parts of a simulation know them.

They protect nobody, and need not: in a simulation all silos and the server are one machine. A real
silo makes its own key (``Identity.create``) and pins the roster that its consortium signed.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.roster import Identity, Roster


def simulated_identity(name: str, seed: int) -> Identity:
    """Return the identity that silo ``name`` has in simulations of ``seed``."""
    private = digest("simulated identity", str(seed), name)
    return Identity(name, Ed25519PrivateKey.from_private_bytes(private))


def simulated_roster(names: Iterable[str], seed: int) -> Roster:
    """Return the public keys of simulated silos."""
    return Roster({name: simulated_identity(name, seed).public for name in names})
