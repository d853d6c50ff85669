"""Randomness has a name: every stream is derived from the run's seed and a path of names.

Two streams with different names are independent; the same name always gives the same
stream, whatever was drawn elsewhere and in whatever order.
"""

from __future__ import annotations

import hashlib

import numpy as np


def number(seed: int, *name: str | int) -> int:
    """Return a 63-bit integer that depends on ``seed`` and ``name`` alone."""
    text = "\x1f".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator called ``name`` in the run of ``seed``."""
    return np.random.default_rng(number(seed, *name))
