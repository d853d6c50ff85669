"""Damaged messages and files: a clean error or a value, at once, and in little memory.

Memory is what Python and NumPy take while a message is decoded, by ``tracemalloc``: at most 64
bytes for each byte of it, and two megabytes. Found by these tests and mended: JSON nested too
deeply, numbers of four hundred digits, halves of characters and impossible shapes.
"""

from __future__ import annotations

import time
import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as runs
from hypothesis import strategies as some

from tests.fuzz.decoders import DECODERS, Clean, Decoder

MESSAGES, MEASURED = 10_000, 500
PER_BYTE, ANYWAY = 64, 2_000_000
SECONDS = 2.0
"""Of processor time for one message."""


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return DECODERS[request.param]


def decoded(decoder: Decoder, message: Any) -> bool:
    """Whether a message is taken; an error that is not clean goes through."""
    try:
        decoder.decode(message)
    except Clean:
        return False
    return True


def test_a_sound_message_is_taken(decoder: Decoder) -> None:
    assert all(decoded(decoder, message) for message in decoder.sound())


@runs(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=some.randoms(use_true_random=False))
def test_a_damaged_message_is_an_error_in_words_or_a_value(decoder: Decoder, rng: Random) -> None:
    decoded(decoder, decoder.mutate(rng, rng.choice(decoder.sound())))


@pytest.mark.slow
def test_ten_thousand_damaged_messages_are_each_done_with_at_once(decoder: Decoder) -> None:
    rng, sound, refused = Random(1), decoder.sound(), 0
    for number in range(MESSAGES):
        message = decoder.mutate(rng, rng.choice(sound))
        begun = time.process_time()
        refused += not decoded(decoder, message)
        assert time.process_time() - begun < SECONDS, number
    assert decoder.lenient or refused > MESSAGES / 10


@pytest.mark.slow
def test_damaged_messages_take_little_memory(decoder: Decoder) -> None:
    rng, sound = Random(2), decoder.sound()
    for message in sound:
        decoded(decoder, message)  # what is imported or built once is no message's cost
    tracemalloc.start()
    try:
        for number in range(MEASURED):
            message = decoder.mutate(rng, rng.choice(sound))
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
            decoded(decoder, message)
            peak = tracemalloc.get_traced_memory()[1] - held
            assert peak <= PER_BYTE * decoder.size(message) + ANYWAY, (number, peak)
    finally:
        tracemalloc.stop()
