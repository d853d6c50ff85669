"""The identity of the running code, so that a server and a silo of two checkouts find out."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import fedvemoe_app


@cache
def code_hash() -> str:
    """Return the sha256 over the package's source files, by path and content."""
    root = Path(fedvemoe_app.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"\n{file.relative_to(root).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
