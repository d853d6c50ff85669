"""Attacks on advertised keys: a silo shares its secrets with nobody it does not know.

Removed by hand, each turned a test here red: signatures on advertisements, and that they are bound
to session and name; what commitments are bound to; the own advertisement unchanged; distinct keys;
advertisers of the cohort only; enough advertisers; no keys of low order; their fields and sizes.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.codec import pack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.keys import public_key
from fedvemoe_app.secagg.roster import Roster
from fedvemoe_app.secagg.transcript import Advertisement, commit
from tests.secagg.attack import VICTIM, fields_of
from tests.secagg.consortium import (
    IDENTITIES,
    Run,
    member,
    names,
    spec_for,
)


def adverts_of(run: Run) -> dict[str, dict[str, bytes]]:
    return fields_of(run.advertise(), "adverts")["adverts"]  # type: ignore[return-value]


def refuses_adverts(run: Run, adverts: object, says: str) -> None:
    message = pack({"session": run.spec.session, "adverts": adverts})
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].share(message)


def test_a_substituted_key_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    for key in ("mask_key", "share_key", "commitment"):
        forged = adverts["silo-01"] | {key: public_key(os.urandom(32))}
        refuses_adverts(run, adverts | {"silo-01": forged}, "signature of silo-01")


def test_a_key_signed_for_another_session_serial_or_phase_is_refused() -> None:
    for spec in (spec_for(4), spec_for(4, serial=8), replace(spec_for(4), phase="statistics")):
        run = Run.of(4)
        adverts = adverts_of(run)
        other = Client(member("silo-01")).advertise(spec.to_bytes())
        forged = fields_of(other, "advert")["advert"]
        refuses_adverts(run, adverts | {"silo-01": forged}, "signature of silo-01")


def test_a_silo_under_another_name_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    refuses_adverts(run, adverts | {"silo-02": adverts["silo-01"]}, "signature of silo-02")


def test_a_signature_counts_for_the_name_that_was_signed() -> None:
    """Even where one identity key stands in two consortiums' rosters, under different names."""
    spec, twin = spec_for(5), replace(IDENTITIES["silo-00"], name="silo-01")
    advert = Advertisement.signed(spec, twin, os.urandom(32), os.urandom(32), bytes(32))
    advert.check(spec, "silo-01", Roster({"silo-01": twin.public}))
    with pytest.raises(SecAggRefusal, match="signature of silo-00 does not hold"):
        advert.check(spec, "silo-00", Roster({"silo-00": twin.public}))


def test_commitments_to_one_seed_differ_by_silo_and_session() -> None:
    """Else equal commitments would say that two silos, or two sessions, have one seed."""
    one, other = spec_for(5, serial=7), spec_for(5, serial=8)
    places = [(one, "silo-00"), (one, "silo-01"), (other, "silo-00")]
    assert len({commit(spec, name, bytes(32)) for spec, name in places}) == 3


def test_a_replaced_own_key_is_refused() -> None:
    """Even a validly signed one, from an earlier run of this silo."""
    run = Run.of(4)
    adverts = adverts_of(run)
    twin = fields_of(Client(member(VICTIM)).advertise(run.spec.to_bytes()), "advert")["advert"]
    refuses_adverts(run, adverts | {VICTIM: twin}, "own advertisement")
    del adverts[VICTIM]
    refuses_adverts(run, adverts, "own advertisement")


def test_a_copied_key_is_refused() -> None:
    """A colluding silo signs the key of another as its own."""
    run = Run.of(4)
    adverts = adverts_of(run)
    for key in ("mask_key", "share_key"):
        copied = adverts["silo-01"]["mask_key"]
        keys = {"mask_key": os.urandom(32), "share_key": os.urandom(32)} | {key: copied}
        forged = Advertisement.signed(run.spec, IDENTITIES["silo-02"], seed=bytes(32), **keys)
        refuses_adverts(run, adverts | {"silo-02": forged.fields()}, "the same")


def test_a_silo_outside_the_cohort_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    sybil = Advertisement.signed(
        run.spec, IDENTITIES["silo-09"], os.urandom(32), os.urandom(32), bytes(32)
    )
    refuses_adverts(run, adverts | {"silo-09": sybil.fields()}, "silo-09 is not in the cohort")


def test_too_few_advertisers_are_refused() -> None:
    run = Run.of(5)
    adverts = adverts_of(run)
    refuses_adverts(run, {name: adverts[name] for name in names(3)}, "3 silos advertised, below 4")


def test_a_key_of_low_order_is_refused() -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    weak = Advertisement.signed(
        run.spec, IDENTITIES["silo-01"], os.urandom(32), bytes(32), bytes(32)
    )
    refuses_adverts(run, adverts | {"silo-01": weak.fields()}, "not a key")


@pytest.mark.parametrize("field", ["mask_key", "share_key", "commitment", "signature"])
def test_malformed_advertisements_are_refused(field: str) -> None:
    run = Run.of(4)
    adverts = adverts_of(run)
    short = adverts["silo-01"] | {field: adverts["silo-01"][field][:-1]}
    less = {key: value for key, value in adverts["silo-01"].items() if key != field}
    for bad in (short, less, [], "text"):
        refuses_adverts(run, adverts | {"silo-01": bad}, "field adverts is malformed")
