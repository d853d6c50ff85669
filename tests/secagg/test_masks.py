"""Keystreams: the published bytes, whatever the mode; masks that cancel word for word.

Removed by hand, each turned a test here red: the known-answer test (a broken mode was taken);
the counter's start (CTR and GCM differed); the length limit; wiping the buffer that stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from fedvemoe_app.errors import RunError
from fedvemoe_app.secagg import masks
from fedvemoe_app.secagg.masks import (
    CHUNK_BYTES,
    Keystream,
    Mode,
    apply_masks,
    by_ctr,
    by_gcm,
    fastest_mode,
    scratch,
    self_test,
)


def block_by_block(key: bytes, size: int) -> bytes:
    """AES of the counters 2, 3, ... one block at a time: the definition."""
    encryptor = Cipher(AES(key), ECB()).encryptor()
    blocks = [encryptor.update(i.to_bytes(16, "big")) for i in range(2, 2 + size // 16 + 1)]
    return b"".join(blocks)[:size]


@pytest.mark.parametrize("mode", [by_ctr, by_gcm])
def test_both_modes_give_the_same_stream_in_any_pieces(mode: Mode) -> None:
    key = os.urandom(16)
    encryptor = mode(key)
    pieces = [encryptor.update(bytes(size)) for size in (1, 16, 1000, 70_001, 3)]
    assert b"".join(pieces) == block_by_block(key, 71_021)


@pytest.mark.parametrize("mode", [by_ctr, by_gcm])
def test_known_answer(mode: Mode) -> None:
    self_test(mode)


def broken_everywhere(key: bytes) -> object:
    return by_ctr(key[::-1][:15] + b"!")


def broken_in_pieces(key: bytes) -> object:
    """Right for whole blocks, but a partial block is thrown away."""
    return SimpleNamespace(update=lambda data: by_ctr(key).update(data))


@pytest.mark.parametrize("broken", [["by_ctr"], ["by_gcm"], ["by_ctr", "by_gcm"]])
@pytest.mark.parametrize("mode", [broken_everywhere, broken_in_pieces])
def test_a_broken_mode_is_never_used(
    mode: Callable[[bytes], object], broken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in broken:
        monkeypatch.setattr(masks, name, mode)
    fastest_mode.cache_clear()
    with pytest.raises(RunError, match="known-answer test"):
        Keystream(bytes(16))
    fastest_mode.cache_clear()


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("length", [1, 7, 200_003])
def test_masks_are_the_stream_and_cancel(dtype: str, length: int) -> None:
    words = np.zeros(length, dtype)
    key, other = os.urandom(16), os.urandom(16)
    apply_masks(words, plus=[Keystream(key)])
    assert words.tobytes() == block_by_block(key, words.nbytes)
    apply_masks(words, plus=[Keystream(other)], minus=[Keystream(key), Keystream(other)])
    assert not words.any()


def test_no_mask_stays_in_the_buffer() -> None:
    """The buffer outlives the sum: the last chunk of a mask in it would open that chunk."""
    apply_masks(np.zeros(1000, "<u4"), plus=[Keystream(os.urandom(16))])
    assert not any(scratch()[:CHUNK_BYTES])


def test_words_wrap_around() -> None:
    words = np.full(100, 2**32 - 1, "<u4")
    key = os.urandom(16)
    apply_masks(words, plus=[Keystream(key)])
    stream = np.frombuffer(block_by_block(key, 400), "<u4")
    assert (words == stream - np.uint32(1)).all()


def test_a_stream_is_never_longer_than_its_counter() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, "<u8"), (2**33,), (0,), writeable=False)
    with pytest.raises(RunError, match="too long for one keystream"):
        apply_masks(words, plus=[])


def test_a_buffer_holds_a_chunk() -> None:
    buffer = scratch()
    Keystream(bytes(16)).fill(buffer, CHUNK_BYTES)
    assert bytes(buffer[:16]).hex() == "0388dace60b6a392f328c2b971b2fe78"
