"""Attacks on who survived: nobody's two secrets, no small sums, no differences of sums.

Removed by hand, each turned a test here red: the own name among survivors; survivors among sharers;
enough of them, all three before signing as well as before unmasking; survivors are those confirmed;
enough signatures, of survivors, that hold; one set of survivors per model and phase.
"""

from __future__ import annotations

import pytest

from fedvemoe_app.secagg.codec import pack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.spec import Policy
from tests.secagg.attack import VICTIM, fields_of, prepared
from tests.secagg.consortium import Run, names, shown_for, silos


def masked(count: int = 5, gone: tuple[str, ...] = (), **settings: object) -> Run:
    run, shown, uploads = prepared(count, **settings)
    run.gone = {"upload": gone}
    run.upload(shown, uploads)
    return run


def asks(run: Run, survivors: list[str]) -> bytes:
    return pack({"session": run.spec.session, "survivors": survivors, "signatures": {}})


IMPOSSIBLE = pytest.mark.parametrize(
    ("survivors", "says"),
    [
        (names(5)[1:], "survivors must be this silo"),
        ([*names(5), "silo-09"], "others who shared"),
        (names(3), "3 survivors, below 4"),
        (list(reversed(names(5))), "malformed"),
        ([*names(4), "silo-03"], "malformed"),
    ],
)


@IMPOSSIBLE
def test_impossible_survivors_are_refused(survivors: list[str], says: str) -> None:
    run = masked()
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].unmask(asks(run, survivors))


@IMPOSSIBLE
def test_impossible_survivors_are_not_signed(survivors: list[str], says: str) -> None:
    run = masked(confirm=True)
    request = pack({"session": run.spec.session, "survivors": survivors})
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].confirm(request)


def test_fewer_survivors_than_agreed_are_refused_above_the_threshold_too() -> None:
    run = masked(min_survivors=5)
    with pytest.raises(SecAggRefusal, match="4 survivors, below 5"):
        run.clients[VICTIM].unmask(asks(run, names(4)))


def test_no_silo_reveals_both_shares_of_a_peer() -> None:
    """Whatever is asked, one answer, with one share per sharer."""
    run = masked()
    reply = fields_of(run.clients[VICTIM].unmask(asks(run, names(4))), "seeds", "mask_keys")
    assert sorted(reply["seeds"]) == names(4)  # type: ignore[call-overload]
    assert sorted(reply["mask_keys"]) == ["silo-04"]  # type: ignore[call-overload]
    with pytest.raises(SecAggRefusal, match="once"):
        run.clients[VICTIM].unmask(asks(run, names(5)))


def test_split_survivors_never_give_both_secrets_of_a_silo() -> None:
    """Without confirmations: however the server splits its story, one of the two stays short."""
    for told in range(6):
        run = masked()
        seeds = mask_keys = 0
        for i, name in enumerate(names(5)):
            story = names(5) if i < told else [n for n in names(5) if n != "silo-04"]
            if name not in story:
                continue
            reply = fields_of(run.clients[name].unmask(asks(run, story)), "seeds", "mask_keys")
            seeds += "silo-04" in reply["seeds"]  # type: ignore[operator]
            mask_keys += "silo-04" in reply["mask_keys"]  # type: ignore[operator]
        assert min(seeds, mask_keys) < run.spec.threshold


def confirming() -> tuple[Run, dict[str, bytes]]:
    """A session of 5 whose silos have signed that all of them survived."""
    run = masked(5, confirm=True)
    request = pack({"session": run.spec.session, "survivors": names(5)})
    signatures = {}
    for name, client in run.clients.items():
        reply = client.confirm(request)
        signatures[name] = fields_of(reply, "signature")["signature"]
    return run, signatures  # type: ignore[return-value]


def refuses_unmask(run: Run, survivors: list[str], signatures: dict, says: str) -> None:
    fields = {"session": run.spec.session, "survivors": survivors, "signatures": signatures}
    with pytest.raises(SecAggRefusal, match=says):
        run.clients[VICTIM].unmask(pack(fields))


def test_other_survivors_than_confirmed_are_refused() -> None:
    run, signatures = confirming()
    refuses_unmask(run, names(4), {n: signatures[n] for n in names(4)}, "not the survivors")


def test_survivors_that_were_never_confirmed_are_refused() -> None:
    refuses_unmask(masked(5, confirm=True), names(5), {}, "not the survivors")


def test_split_survivors_are_found_out_by_their_signatures() -> None:
    """The others signed a different set than the one shown to the victim."""
    run = masked(5, confirm=True)
    story = pack({"session": run.spec.session, "survivors": names(4)})
    truth = pack({"session": run.spec.session, "survivors": names(5)})
    signatures = {}
    for name in names(4):
        reply = run.clients[name].confirm(truth if name == VICTIM else story)
        signatures[name] = fields_of(reply, "signature")["signature"]
    others = {name: signatures[name] for name in names(4)[1:]}
    refuses_unmask(run, names(5), others, "3 signatures on the survivors, need 4")
    refuses_unmask(run, names(5), signatures, "signature of silo-01 does not hold")


def test_signatures_of_strangers_and_of_another_session_do_not_count() -> None:
    run, signatures = confirming()
    _, elsewhere = confirming()
    stranger = signatures | {"silo-09": signatures["silo-01"]}
    refuses_unmask(run, names(5), stranger, "signatures on the survivors")
    refuses_unmask(run, names(5), signatures | {"silo-01": elsewhere["silo-01"]}, "does not hold")


def test_one_model_is_unmasked_for_one_set_of_survivors() -> None:
    """The difference of two sums over four and five silos would be the fifth's numbers."""
    first, shown, uploads = prepared()
    first.unmask(shown, uploads)
    same, different = Run.of(5, serial=8), Run.of(5, {"upload": ["silo-04"]}, serial=9)
    next_model = Run.of(5, {"upload": ["silo-04"]}, serial=10)
    for run in (same, different, next_model):
        run.clients = first.clients
    same.unmask(shown, uploads)
    with pytest.raises(SecAggRefusal, match="unmasked before, for other survivors"):
        different.unmask(shown, uploads)
    next_model.unmask(shown_for(shown.layout, model=1), uploads)


def test_each_phase_of_a_model_has_survivors_of_its_own() -> None:
    """Different numbers are summed then; which phases there are is up to the silo's policy."""
    first, shown, uploads = prepared()
    first.unmask(shown, uploads)
    statistics = Run.of(5, {"upload": ["silo-04"]}, serial=8, phase="statistics")
    statistics.clients = first.clients
    statistics.unmask(shown, uploads)


def test_repeats_may_be_allowed_by_the_silo() -> None:
    first, shown, uploads = prepared()
    first.clients = silos(5, Policy(allow_repeats=True))
    first.unmask(shown, uploads)
    second = Run.of(5, {"upload": ["silo-04"]}, serial=8)
    second.clients = first.clients
    second.unmask(shown, uploads)
