"""Masks: AES-128 keystreams, added to words in place with natural wrap-around.

All masks of an upload are applied in one pass over memory, in chunks that stay in the cache.
The stream is AES-128 in counter mode, initial block 0^96 || 2: what AES-GCM with a zero nonce
makes of zeros. Some builds of OpenSSL have the wide AES instructions for one of the two only;
both give the same bytes, and the faster one is taken after both passed a known-answer test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

from fedvemoe_app.errors import RunError

MASK_KEY_BYTES = 16
CHUNK_BYTES = 256 * 1024
MAX_STREAM_BYTES = 2**36 - 64
"""AES-GCM's limit for one nonce: its block counter has 32 bits."""

_BLOCK = 16
_ZEROS = memoryview(bytes(CHUNK_BYTES))
_KNOWN = bytes.fromhex("0388dace60b6a392f328c2b971b2fe78")
"""GCM specification (McGrew and Viega 2005), test case 2: zero key, nonce and plaintext."""

Words = NDArray[Any]
"""Unsigned integers, 1-D, little-endian."""
Encryptor = CipherContext | AEADEncryptionContext
Mode = Callable[[bytes], Encryptor]


_thread = threading.local()


def scratch() -> bytearray:
    """Return this thread's buffer for one chunk of keystream: touching fresh memory costs more.

    It serves one purpose at a time: whoever asks next writes over it.
    """
    if not hasattr(_thread, "buffer"):
        _thread.buffer = bytearray(CHUNK_BYTES + _BLOCK)
    buffer: bytearray = _thread.buffer
    return buffer


class Stream(Protocol):
    """An endless source of bytes."""

    def fill(self, buffer: bytearray, size: int) -> None:
        """Write the next ``size`` bytes, at most a chunk, to the start of ``buffer``."""


class Keystream:
    """The keystream of a 16-byte key, which must serve for one stream alone."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = fastest_mode()(key)

    def fill(self, buffer: bytearray, size: int) -> None:
        """Write the next ``size`` bytes to the start of ``buffer``."""
        self._encryptor.update_into(_ZEROS[:size], buffer)


def apply_masks(words: Words, plus: Sequence[Stream], minus: Sequence[Stream] = ()) -> None:
    """Add the streams ``plus`` to ``words`` and subtract ``minus``, in place."""
    if words.nbytes > MAX_STREAM_BYTES:
        raise RunError(f"a lane of {words.nbytes} bytes is too long for one keystream: split it")
    buffer = scratch()
    step = CHUNK_BYTES // words.itemsize
    mask = np.frombuffer(buffer, words.dtype, step)
    changes: list[tuple[Stream, np.ufunc]] = [(stream, np.add) for stream in plus]
    changes += [(stream, np.subtract) for stream in minus]
    for start in range(0, len(words), step):
        chunk = words[start : start + step]
        size = chunk.nbytes
        own = mask[: len(chunk)]
        for stream, change in changes:
            stream.fill(buffer, size)
            change(chunk, own, out=chunk)
    mask[:] = 0  # the buffer stays, no mask does


def by_ctr(key: bytes) -> Encryptor:
    """Return the stream's encryptor in plain counter mode."""
    return Cipher(AES(key), CTR(bytes(12) + b"\0\0\0\2")).encryptor()


def by_gcm(key: bytes) -> Encryptor:
    """Return the stream's encryptor in AES-GCM, whose tag nobody asks for."""
    return Cipher(AES(key), GCM(bytes(12))).encryptor()


@cache
def fastest_mode() -> Mode:
    """Test both modes, once per process, and return the faster; RunError if a test fails."""
    modes = [by_ctr, by_gcm]
    for mode in modes:
        self_test(mode)
    return min(modes, key=_seconds)


def self_test(mode: Mode) -> None:
    """Compare a mode with the published stream and with counter mode over odd pieces."""
    key = bytes(range(MASK_KEY_BYTES))
    first = mode(bytes(MASK_KEY_BYTES)).update(bytes(_BLOCK))
    encryptor = mode(key)
    pieces = b"".join(encryptor.update(bytes(size)) for size in (5, 4096, 33, 7))
    if first != _KNOWN or pieces != by_ctr(key).update(bytes(len(pieces))):
        raise RunError(
            "the AES keystream of this machine fails its known-answer test: "
            "reinstall the cryptography package"
        )


def _seconds(mode: Mode) -> float:
    encryptor, buffer = mode(bytes(MASK_KEY_BYTES)), scratch()
    encryptor.update_into(_ZEROS, buffer)
    start = time.perf_counter()
    for _ in range(4):
        encryptor.update_into(_ZEROS, buffer)
    return time.perf_counter() - start
