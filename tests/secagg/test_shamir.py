"""Shares: any threshold of them give the secret, fewer say nothing.

Removed by hand, each turned a test here red: the degree of the polynomial (t - 2); random
coefficients (zeros); the search of ``recover`` (first run only); the range check of ``combine``.
"""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvemoe_app.secagg.shamir import PRIME, SHARE_BYTES, combine, recover, split


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
def test_any_threshold_of_shares_give_the_secret(
    secret: bytes, members: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, members))
    shares = split(secret, threshold, members)
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert combine({x: shares[x] for x in chosen}) == secret


def test_largest_secret_survives() -> None:
    shares = split(b"\xff" * 32, 3, 4)
    assert combine({x: shares[x] for x in (1, 2, 4)}) == b"\xff" * 32


def test_fewer_shares_fit_every_secret_alike() -> None:
    """For t - 1 shares and any candidate there is a last share that makes it the secret."""
    secret, candidate = os.urandom(32), os.urandom(32)
    shares = split(secret, 3, 5)
    assert combine({x: shares[x] for x in (1, 2)}) != secret
    assert combine({x: shares[x] for x in (4, 5)}) != secret
    # f(0) = sum_i w_i y_i is affine in y_3 with weight 1 at x = (1, 2, 3), so y_3 can be solved.
    y = [int.from_bytes(shares[x], "big") for x in (1, 2)]
    last = (int.from_bytes(candidate, "big") - 3 * y[0] + 3 * y[1]) % PRIME
    forged = {1: shares[1], 2: shares[2], 3: last.to_bytes(SHARE_BYTES, "big")}
    assert combine(forged) == candidate


def test_shares_of_one_secret_differ_each_time() -> None:
    first, second = split(bytes(32), 3, 5), split(bytes(32), 3, 5)
    assert all(first[x] != second[x] for x in first)
    assert len(set(first.values())) == 5


def test_a_value_that_is_no_secret_gives_none() -> None:
    assert combine({1: (PRIME - 1).to_bytes(SHARE_BYTES, "big")}) is None


@pytest.mark.parametrize("wrong", [1, 3, 5])
def test_recover_goes_around_one_wrong_share(wrong: int) -> None:
    secret = os.urandom(32)
    shares = split(secret, 4, 5)
    shares[wrong] = os.urandom(32).rjust(SHARE_BYTES, b"\0")
    assert recover(shares, 4, lambda found: found == secret) == secret


def test_recover_gives_none_without_enough_right_shares() -> None:
    secret = os.urandom(32)
    shares = split(secret, 4, 5)
    for few in itertools.combinations(shares, 3):
        assert recover({x: shares[x] for x in few}, 4, lambda s: s == secret) is None


@pytest.mark.parametrize(("threshold", "members", "size"), [(0, 3, 32), (4, 3, 32), (2, 3, 31)])
def test_impossible_sharings_are_errors(threshold: int, members: int, size: int) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        split(bytes(size), threshold, members)
