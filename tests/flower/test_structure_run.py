"""The lifecycle in whole runs: births, and the end of experts that are one too many.

Removed by hand, each turned a test here red: the adoption before the mark is checked; the verdict
that is not asked for after the last round; the candidate's resident slot; c-min.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from fedvemoe_app.flower.messages.notices import get_notice
from fedvemoe_app.flower.messages.wire import get_tensors
from fedvemoe_app.report.journal import Run
from tests.federation import Settings, federate
from tests.flower.open_world import (
    BIRTH,
    ONE_EXPERT,
    QUICK,
    TOO_DEAR,
    TOO_MANY,
    Watch,
    plain,
    structure,
)

CROWD = 3
SILOS = 8
ENDS = 5
Watched = tuple[Run, Watch]
Make = Callable[..., Watched]


@pytest.fixture(scope="module")
def make(settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run a federation and return it with all that passed."""

    def run(settings: Settings, silos: int = 4) -> Watched:
        watch = Watch()
        folder = tmp_path_factory.mktemp("structure")
        return federate({**settings_in(folder), **settings}, silos=silos, tamper=watch), watch

    return run


@pytest.fixture(scope="module")
def born(make: Make) -> Watched:
    return make({**ONE_EXPERT, "num-server-rounds": BIRTH + 2, "c-min": CROWD}, SILOS)


@pytest.fixture(scope="module")
def merged(make: Make) -> Watched:
    return make({**TOO_DEAR, "num-server-rounds": ENDS})


def test_a_birth_is_recorded_with_its_reason(born: Watched) -> None:
    run, _ = born
    assert structure(run) == [(BIRTH, "birth"), (BIRTH + 1, "accept")]
    birth = run.events[0]
    assert birth["slots"] == [0, 1]
    assert birth["numbers"]["silos"] >= CROWD
    assert "dissatisfied silos of expert 0 seed expert 1" in birth["why"]
    assert [row["k_active"] for row in run.rounds] == [1] * BIRTH + [2] * 3


def test_mass_is_kept_through_a_birth(born: Watched) -> None:
    run, _ = born
    for row in run.rounds:
        assert row["prior"] is not None
        assert row["mass"] is not None
        assert sum(row["prior"]) == pytest.approx(1.0)
        assert sum(row["mass"]) == pytest.approx(SILOS)
        alive = [slot for slot, share in enumerate(row["prior"]) if share > 0]
        assert alive == list(range(row["k_active"]))


def test_a_newborn_is_its_parent_as_held_and_the_mean_of_the_seeds(born: Watched) -> None:
    _, watch = born
    held, after = watch.bank(BIRTH - 1), watch.bank(BIRTH)
    sent = watch.sums("train", BIRTH)
    weight = sum(float(sums["seed_weight"]) for sums in sent)
    seeds = {name.removeprefix("seed/") for name in sent[0] if name.startswith("seed/")}
    assert seeds
    for name, stack in held.experts.items():
        step = torch.zeros_like(stack).double()
        if name in seeds:
            step = sum((sums[f"seed/{name}"].double() for sums in sent), step) / weight
            assert step.any()
        expected = (stack.double() + step).to(stack.dtype)
        torch.testing.assert_close(after.experts[name][1:], expected)
        if name in seeds:  # the parent moved on with all its silos
            assert not torch.equal(after.experts[name][:1], stack)


def test_a_newborn_is_trained_at_once(born: Watched) -> None:
    run, watch = born
    assert watch.facts("train", BIRTH + 1, "order")["open"] == [True, True]
    assert sum(float(sums["weight"][1]) for sums in watch.sums("train", BIRTH + 1)) > 0
    last = watch.bank(BIRTH + 1)
    assert any(
        not torch.equal(x[1], watch.bank(BIRTH).experts[n][1]) for n, x in last.experts.items()
    )
    saved = {path.parent.name for path in run.folder.glob("experts/*/adapter_model.safetensors")}
    assert saved == {"slot_00", "slot_01"}


def test_silos_report_over_all_slots(born: Watched) -> None:
    rows = [row for row in born[0].clients if row["round"] == BIRTH + 2]
    assert len(rows) == SILOS
    for row in rows:
        assert row["responsibilities"] is not None
        assert len(row["responsibilities"]) == 3
        assert sum(row["responsibilities"]) == pytest.approx(1.0)
    assert any(row["active"] and 1 in row["active"] for row in rows)


def crowds(watch: Watch, rounds: int) -> set[int]:
    """Return how many silos there ever were behind a sum of vectors."""
    found = set()
    for round_ in range(1, rounds + 1):
        sent = watch.sums("train", round_)
        trained = torch.stack([sums["weight"] > 0 for sums in sent]).sum(dim=0)
        wished = torch.stack([sums["wishes_squared"].any(dim=1) for sums in sent]).sum(dim=0)
        seeded = sum(int(sums["seeds"]) for sums in sent if "seeds" in sums)
        found |= {*trained.tolist(), *wished.tolist(), seeded}
    return found


def test_nothing_is_summed_over_fewer_than_c_min(born: Watched, make: Make) -> None:
    assert not crowds(born[1], BIRTH + 2) & set(range(1, CROWD))
    few, rounds = 2, 3
    _, watch = make({**TOO_MANY, "num-server-rounds": rounds, "c-min": few})
    counted = [
        torch.stack([sums["contributors"] for sums in watch.sums("evaluate", round_)]).sum(dim=0)
        for round_ in range(rounds)
    ]
    assert any(0 < count < few for total in counted for count in total.tolist())
    assert 1 not in crowds(watch, rounds)


def test_only_the_called_side_of_the_parent_seeds(born: Watched) -> None:
    _, watch = born
    call = watch.facts("train", BIRTH, "call")
    assert (call["adopt"], call["parent"]) == (False, 0)
    unhappy = [sums["unhappy"][0] for sums in watch.sums("evaluate", BIRTH - 1)]
    seeds = [int(sums["seeds"]) for sums in watch.sums("train", BIRTH)]
    assert seeds == [int(sides[call["side"]]) for sides in unhappy]
    assert watch.facts("train", BIRTH + 1, "call")["parent"] is None


def test_two_experts_become_one_and_silos_adopt_it(merged: Watched) -> None:
    run, watch = merged
    ((round_, kind),) = structure(run)
    assert kind == "merge"
    (event,) = [row for row in run.events if row["event"] == "merge"]
    leaving, into = event["slots"]
    assert len(run.events) == 1  # a silo that adopts another expert would fail the mark
    calls = [watch.facts("train", number, "call")["adopt"] for number in range(1, ENDS + 1)]
    assert calls == [number == round_ + 1 for number in range(1, ENDS + 1)]
    assert [row["k_active"] for row in run.rounds] == [2] * (round_ + 1) + [1] * (ENDS - round_)
    prior = run.rounds[round_ + 1]["prior"]
    assert prior is not None
    assert prior[leaving] == 0.0
    for row in run.rounds:
        assert row["prior"] is not None
        assert sum(row["prior"]) == pytest.approx(1.0)
    notice = get_notice(watch.of("evaluate", round_)[0][0].content)
    assert notice is not None
    assert (notice.leaving, notice.into, len(notice.slots)) == (leaving, into, 2)
    factors, place = watch.bank(round_ + 1).experts, into - (leaving < into)
    for name, tensor in notice.candidate.items():  # one factor rests in this round
        if name.endswith(".A" if (round_ + 1) % 2 else ".B"):
            assert torch.equal(factors[name][place], tensor[0])


def test_what_is_scored_last_is_saved(merged: Watched, make: Make) -> None:
    """A verdict after the last round could only be half done. The candidate came in parts."""
    longer, _ = merged
    ((round_, _),) = structure(longer)
    ended, _ = make({**TOO_DEAR, "num-server-rounds": round_, "message-mb": 0.02})
    assert structure(ended) == []
    scored = ("k_active", "prior", "mass", "loss_train")
    for one, other in zip(plain(ended), plain(longer), strict=False):
        assert [one[key] for key in scored] == [other[key] for key in scored]
    held = merged[1].bank(round_).experts
    for slot in range(2):
        path = ended.folder / "experts" / f"slot_{slot:02d}" / "adapter_model.safetensors"
        saved = sorted(float(x.double().square().sum()) for x in load_file(path).values())
        expected = sorted(float(x[slot].double().square().sum()) for x in held.values())
        assert saved == pytest.approx(expected, rel=1e-6)


def test_an_expert_that_nobody_would_take_over_is_pruned(make: Make) -> None:
    run, watch = make({**TOO_MANY, "num-server-rounds": 4, "merge-share": 1.0})
    ((round_, kind),) = structure(run)
    assert kind == "prune"
    (event,) = run.events
    (slot,) = event["slots"]
    assert event["numbers"]["worth"] < event["numbers"]["price"] == 0.02
    prior = run.rounds[round_]["prior"]
    assert prior is not None
    assert prior[slot] == 0.0
    assert sum(prior) == pytest.approx(1.0)
    assert watch.facts("evaluate", round_, "notice.facts")["slots"] == [
        one for one in range(4) if one != slot
    ]
    assert not (run.folder / "experts" / f"slot_{slot:02d}").exists()


def test_what_never_acts_changes_nothing(make: Make) -> None:
    """Without the lifecycle no word of it is sent, and all rows and silos' rows are the same."""
    short: Settings = {**QUICK, "num-server-rounds": 2, "quiet-rounds": 9, "eval-every": 1}
    on, heard = make(short)
    off, unheard = make({**short, "lifecycle": False})
    assert plain(on) == plain(off)
    assert on.clients == off.clients
    assert "notice" in heard.of("evaluate", 1)[0][0].content
    for message, reply in unheard.passed:
        assert not {"notice", "notice.facts", "call"} & set(message.content)
        if message.metadata.message_type in ("train", "evaluate"):
            assert not {"unhappy", "wishes", "edge"} & set(get_tensors(reply.content, "sums"))


@pytest.mark.parametrize("strategy", ["fedavg", "fedem", "ifca"])
def test_other_strategies_have_no_lifecycle(strategy: str, make: Make) -> None:
    run, watch = make({**QUICK, "num-server-rounds": 1, "strategy": strategy, "lifecycle": True})
    assert not any("notice" in message.content for message, _ in watch.passed)
    assert run.events == []


@pytest.mark.parametrize("slot", ["local", pytest.param("tuned", marks=pytest.mark.slow)])
def test_a_private_slot_leaves_all_sums_as_they_are(slot: str, merged: Watched, make: Make) -> None:
    """It predicts beside the bank, and the bank never learns of it, full or with a candidate."""
    without, heard = merged
    run, watch = make({**TOO_DEAR, "num-server-rounds": ENDS, "private-slot": slot})
    kept = ("round", "k_active", "mass", "prior", "loss_train")
    assert [[row[key] for key in kept] for row in plain(run)] == [
        [row[key] for key in kept] for row in plain(without)
    ]
    assert run.events == without.events
    for round_ in range(ENDS + 1):
        for name, tensor in heard.bank(round_).experts.items():
            assert torch.equal(tensor, watch.bank(round_).experts[name])
    assert any(row["private"] > 0 for row in run.clients if row["round"] == ENDS)
