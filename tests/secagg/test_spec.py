"""Sessions and what a silo's own policy demands of them.

Removed by hand, each turned a test here red: every single demand of ``Policy.check``; the modes;
n_max against the cohort's size; sorted and distinct names.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.codec import pack, unpack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.spec import MODES, Policy, SessionSpec, least_threshold
from tests.secagg.consortium import ROSTER, names, spec_for

SPEC = spec_for(5)
KNOWN = ROSTER.members


@pytest.mark.parametrize("silos", range(3, 200))
def test_two_halves_of_a_cohort_never_both_reach_the_threshold(silos: int) -> None:
    threshold = least_threshold(silos)
    assert 3 * threshold > 2 * silos
    assert threshold <= silos


def test_bytes_come_back_and_hash_tells_specs_apart() -> None:
    assert SessionSpec.from_bytes(SPEC.to_bytes()) == SPEC
    changes = [
        {"session": bytes(16)},
        {"run": 1},
        {"serial": 8},
        {"phase": "statistics"},
        {"cohort": tuple(names(6)[1:])},
        {"threshold": 5},
        {"min_survivors": 4},
        {"n_max": 6},
        {"bits": 16},
        {"confirm": True},
    ]
    assert len({SPEC.hash, *(replace(SPEC, **change).hash for change in changes)}) == 11
    assert SessionSpec.new(7, "vectors", names(5)).session != SPEC.session


@pytest.mark.parametrize(
    "change",
    [
        {"cohort": tuple(reversed(names(5)))},
        {"cohort": ("a", "a", "b", "c", "d")},
        {"cohort": ("a b", "c", "d", "e", "f")},
        {"phase": ""},
        {"serial": -1},
        {"run": -1},
        {"threshold": 0},
        {"threshold": 6},
        {"min_survivors": 6},
        {"n_max": 4},
        {"bits": 64},
        {"bits": 16, "n_max": 17},
    ],
)
def test_impossible_sessions_are_errors_on_both_sides(change: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        replace(SPEC, **change)
    fields = asdict(SPEC) | change
    with pytest.raises(SecAggRefusal, match="session"):
        SessionSpec.from_bytes(pack(fields))


@pytest.mark.parametrize("session", [b"", bytes(15), "text"])
def test_malformed_sessions_are_refused(session: object) -> None:
    fields = asdict(SPEC) | {"session": session}
    with pytest.raises(SecAggRefusal, match="field session is malformed"):
        SessionSpec.from_bytes(pack(fields))
    assert unpack(pack({}), "nothing") == {}


def test_a_decent_session_is_accepted() -> None:
    Policy().check(SPEC, "silo-00", KNOWN)
    Policy(require_confirm=True).check(replace(SPEC, confirm=True), "silo-00", KNOWN)


@pytest.mark.parametrize(
    ("change", "policy", "says"),
    [
        ({"cohort": tuple(names(6)[1:])}, Policy(), "this silo, silo-00, is not in the cohort"),
        ({"cohort": (*names(5), "stranger"), "n_max": 6, "threshold": 5}, Policy(), "roster"),
        ({}, Policy(min_silos=6), "a cohort of 5 is below min_silos 6"),
        ({"threshold": 3}, Policy(), "threshold 3 is below 4"),
        ({"min_survivors": 2}, Policy(), "min_survivors 2 is below 3"),
        ({}, Policy(min_survivors=4), "min_survivors 3 is below 4"),
        ({"phase": "vectors2"}, Policy(), "phase vectors2 is not among"),
        ({}, Policy(require_confirm=True), "demands signed survivors"),
        ({}, Policy(modes=("sim",)), "privacy = secagg is not accepted"),
    ],
)
def test_a_session_below_the_policy_is_refused(
    change: dict[str, object], policy: Policy, says: str
) -> None:
    with pytest.raises(SecAggRefusal, match=says):
        policy.check(replace(SPEC, **change), "silo-00", KNOWN)


def test_a_server_cannot_downgrade_the_mode() -> None:
    Policy().admit("secagg")
    for mode in set(MODES) - {"secagg"}:
        with pytest.raises(SecAggRefusal, match=f"privacy = {mode} is not accepted"):
            Policy().admit(mode)
        Policy(modes=(mode,)).admit(mode)
