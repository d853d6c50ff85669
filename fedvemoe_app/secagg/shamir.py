"""Shamir's secret sharing of 32-byte secrets over one prime field just above 2^256.

A polynomial of degree t - 1 with the secret at x = 0; member number x holds its value there.
Any t values give the secret, t - 1 say nothing. Python's integers are not constant-time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, members: int) -> dict[int, bytes]:
    """Return a share [33 bytes] for each member number 1..members; any ``threshold`` of them do."""
    if not 1 <= threshold <= members or len(secret) != SECRET_BYTES:
        raise ValueError(f"cannot share {len(secret)} bytes as {threshold} of {members}")
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret, "big"))
    return {x: _value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in range(1, members + 1)}


def _value(polynomial: list[int], x: int) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value * x + coefficient) % PRIME
    return value


def combine(shares: Mapping[int, bytes]) -> bytes | None:
    """Return the secret that exactly ``threshold`` shares determine.

    None where the value is no 32-byte secret; a wrong share that gives another one has to be
    found out by whoever knows a commitment to it.
    """
    weights = _weights_at_zero(tuple(sorted(shares)))
    value = sum(w * int.from_bytes(shares[x], "big") for x, w in weights.items()) % PRIME
    return value.to_bytes(SECRET_BYTES, "big") if value < 2**256 else None


def recover(
    shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]
) -> bytes | None:
    """Return the secret that is ``right``, from any run of shares that gives it, else None.

    Runs are ``threshold`` neighbours around the circle of members: one member's wrong shares do
    no harm where one more answered than is needed.
    """
    members = sorted(shares)
    for first in range(len(members)):
        run = (members[first:] + members[:first])[:threshold]
        secret = combine({member: shares[member] for member in run})
        if secret is not None and right(secret):
            return secret
    return None


@lru_cache(maxsize=256)
def _weights_at_zero(xs: tuple[int, ...]) -> dict[int, int]:
    """Lagrange's weights: the value at 0 is the sum of weight times value over ``xs``."""
    weights = {}
    for x in xs:
        above, below = 1, 1
        for other in xs:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        weights[x] = above * pow(below, -1, PRIME) % PRIME
    return weights
