"""Silos and messages that go missing, and messages that are not what they should be.

Removed by hand, each turned a test here red: a session number of its own (a sum after a dropout
was void); asking only those who have not fallen out (their reason was lost); the check of
advertisement and report before an upload is added; the reset after a void sum.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_facts, put_facts, put_tensors
from fedvemoe_app.flower.messages.words import OWN
from fedvemoe_app.flower.programs.inprocess import InProcessGrid, Tamper
from fedvemoe_app.report.journal import Run, read_run
from fedvemoe_app.secagg.codec import is_bytes, is_map, pack, unpack
from tests.federation import SILOS, Handler, Settings, federate, without_seconds
from tests.flower.small_sums import TEMPLATE, SmallSums, equal

QUICK: Settings = {
    "c-min": 1,
    "reporting": "full",
    "start": "none",
    "generate-examples": 0,
    "eval-examples": 1,
    "target-modules": "q_proj",
    "probe-tokens": 20,
    "local-steps": 1,
}
LOST = 3  # the node of silo-02
STEPS = ("advertise", "share", "train", "confirm", "unmask")


def step_of(message: Message) -> str:
    return message.metadata.message_type.rpartition("_")[2]


def nothing(message: Message) -> Message | None:
    return None


def an_error(message: Message) -> Message | None:
    return Message(Error(7, "no time"), reply_to=message)


WAYS = {"nothing": (nothing, "time ran out"), "an error": (an_error, "no time")}


def losing(
    step: str, *nodes: int, first: int = 1, last: int = 1, way: Callable[..., Any] = nothing
) -> Tamper:
    """Lose the replies of ``nodes`` in their ``first`` to ``last`` message of a step."""
    met = dict.fromkeys(nodes, 0)

    def tamper(message: Message, reply: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if step_of(message) != step or node not in met:
            return reply
        met[node] += 1
        return way(message) if first <= met[node] <= last else reply  # type: ignore[no-any-return]

    return tamper


# One silo of four falls out.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", STEPS)
def test_a_silo_lost_in_any_phase_costs_its_part_and_comes_back(
    step: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, reason = WAYS[way]
    sums = SmallSums(monkeypatch, confirm=True, tamper=losing(step, LOST, way=how))
    total, tally = sums.sum()
    lost = step in ("advertise", "share", "train")
    plain = SmallSums(monkeypatch, privacy="sim", tamper=losing("train", LOST if lost else 0))
    assert equal(total, plain.sum()[0])
    assert (tally.answered, tally.void) == (SILOS - lost, "")
    assert list(tally.failures) == ["silo-02"]
    assert reason in tally.failures["silo-02"]
    for _ in range(2):
        again, after = sums.sum()
        assert equal(again, plain.sum()[0])
        assert (after.answered, after.failures, after.void) == (SILOS, {}, "")


@pytest.mark.parametrize("first", [1, 2, 3])
def test_lost_in_a_later_sum_whose_keys_rode_on_replies(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("train", "unmask"):
        sums = SmallSums(monkeypatch, tamper=losing(step, LOST, first=first, last=first))
        tallies = [sums.sum()[1] for _ in range(5)]
        assert [tally.void for tally in tallies] == [""] * 5
        failed = [list(tally.failures) for tally in tallies]
        assert failed == [["silo-02"] if i == first - 1 else [] for i in range(5)]


def test_silos_fewer_than_the_last_sum_set_up_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silo that is lost in one sum is not asked for the next: what rode along was for four."""
    sums = SmallSums(monkeypatch, tamper=losing("train", LOST))
    assert list(sums.sum()[1].failures) == ["silo-02"]
    total, tally = sums.sum(1, 2, 4)
    assert (tally.answered, tally.failures, tally.void) == (SILOS - 1, {}, "")
    assert total["count"] == SILOS - 1


def experts(run: Run) -> list[bytes]:
    files = sorted((run.folder / "experts").rglob("*.safetensors"))
    return [path.read_bytes() for path in files]


def rows(run: Run) -> list[dict[str, Any]]:
    return [{**row, "bytes_up": 0, "bytes_down": 0} for row in without_seconds(run)]


def unreached(kind: str, round_: str) -> Handler:
    """A silo whose message of a phase never reached it."""

    def app(message: Message, context: Context) -> Message:
        metadata = message.metadata
        where = metadata.dst_node_id, metadata.message_type, metadata.group_id
        if where == (LOST, kind, round_):
            raise RuntimeError("not reached")
        return client_app(message, context)

    return app


RUNS: dict[str, tuple[Tamper, dict[str, Any], list[tuple[int, str]]]] = {
    "advertise": (
        losing("advertise", LOST),
        {"app": unreached("evaluate", "0")},
        [(0, "assess"), (1, "train")],
    ),
    "share": (
        losing("share", LOST),
        {"app": unreached("evaluate", "0")},
        [(0, "assess"), (1, "train")],
    ),
    "train": (losing("train", LOST), {"tamper": losing("train", LOST)}, [(1, "train")]),
    "evaluate": (
        losing("evaluate", LOST, first=2, last=2),
        {"tamper": losing("evaluate", LOST, first=2, last=2)},
        [(1, "assess")],
    ),
    "confirm": (losing("confirm", LOST, first=2, last=2), {}, [(1, "train")]),
    "unmask": (losing("unmask", LOST, first=2, last=2), {}, [(1, "train")]),
}


@pytest.mark.parametrize(
    "step",
    [
        one if one in ("train", "unmask") else pytest.param(one, marks=pytest.mark.slow)
        for one in RUNS
    ],
)
def test_a_run_goes_on_as_sim_does_without_that_silo(
    step: str, settings: Callable[..., Settings]
) -> None:
    tamper, twin, expected = RUNS[step]
    run = federate(
        {**settings(privacy="secagg", confirm=step == "confirm"), **QUICK}, tamper=tamper
    )
    plain = federate({**settings(privacy="sim"), **QUICK}, **twin)
    assert rows(run) == rows(plain)
    assert experts(run) == experts(plain)
    found = [(row["round"], row["numbers"]["phase"]) for row in run.events]
    assert found == expected
    assert {(row["event"], row["numbers"]["silo"]) for row in run.events} == {
        ("dropout", "silo-02")
    }
    assert sum(run.rounds[2]["mass"] or ()) == pytest.approx(SILOS)


# Too few are left.


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_there_is_no_sum_and_the_next_is_whole(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch, confirm=True, tamper=losing(step, 2, LOST))
    total, tally = sums.sum()
    assert (total, tally.answered) == ({}, 0)
    phase = "upload" if step == "train" else step
    assert tally.void.startswith(f"phase {phase}: 2 of 4 clients left, need 3")
    assert set(tally.failures) == {"silo-01", "silo-02"}
    again, after = sums.sum()
    assert (after.answered, after.void, after.failures) == (SILOS, "", {})
    assert again["count"] == SILOS


VOID = {"train": (1, "upload"), "evaluate": (2, "upload"), "unmask": (2, "unmask")}
"""Which message of a step falls into round 1, and the phase of the protocol that is short."""


@pytest.mark.parametrize(
    "step", ["train", pytest.param("evaluate", marks=pytest.mark.slow), "unmask"]
)
def test_a_run_with_a_void_sum_ends_as_one_without(
    step: str, settings: Callable[..., Settings]
) -> None:
    """Experts, scores and the silos' own experts, bit for bit: a retry is a new session."""
    which, phase = VOID[step]
    again = {"private-slot": "local", "num-server-rounds": 1}
    chosen = {**settings(privacy="secagg"), **QUICK, **again}
    run = federate(chosen, tamper=losing(step, 2, LOST, first=which, last=which))
    whole = federate({**chosen, "privacy": "sim", "run-name": "whole"})
    assert rows(run) == rows(whole)
    assert run.clients == whole.clients
    assert experts(run) == experts(whole)
    (void,) = [row for row in run.events if row["event"] == "void"]
    assert (void["round"], void["numbers"]["attempt"]) == (1, 1)
    assert f"phase {phase}: 2 of 4 clients left, need 3" in void["why"]
    assert [row["event"] for row in run.events].count("dropout") == 2


def test_a_sum_that_stays_void_ends_the_run_after_the_retries(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen = {**settings(privacy="secagg", void_retries=2, run_name="given-up"), **QUICK}
    said = r"round 1, phase train: phase upload: 2 of 4 .* asked for 3 times \(void-retries = 2\)"
    with pytest.raises(RunError, match=said):
        federate(chosen, tamper=losing("train", 2, LOST, last=99))
    run = read_run(tmp_path / "given-up")
    assert [row["numbers"]["attempt"] for row in run.events if row["event"] == "void"] == [1, 2, 3]
    assert [row["round"] for row in run.rounds] == [0]


def test_a_sum_whose_unmasking_began_is_had_again_over_the_same_silos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A silo that was not in it would make another list: the difference would be its numbers."""
    away = losing("train", LOST)
    mute = losing("unmask", 1, 2)
    sums = SmallSums(monkeypatch, tamper=lambda m, r: mute(m, r) and away(m, r))
    assert "phase unmask: 1 of 4 clients left, need 3" in sums.sum()[1].void
    total, tally = sums.sum(same_model=True)
    assert (tally.answered, tally.void) == (SILOS - 1, "")
    assert "began to unmask" in tally.failures["silo-02"]
    assert total["count"] == SILOS - 1
    after, tally = sums.sum()
    assert (tally.answered, tally.failures) == (SILOS, {})
    assert after["count"] == SILOS


# Replies that are damaged.


def changed(message: Message, content: RecordDict) -> Message:
    meta = message.metadata
    return Message(content, meta.dst_node_id, meta.message_type, group_id=meta.group_id)


def damaging(damage: Callable[[RecordDict], None]) -> Tamper:
    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == LOST and step_of(message) == "train":
            damage(reply.content)
        return reply

    return tamper


def no_advert(content: RecordDict) -> None:
    content[OWN] = ConfigRecord({})


def bad_report(content: RecordDict) -> None:
    content["report"] = ConfigRecord({"json": "{"})


def no_words(content: RecordDict) -> None:
    content["words"] = ArrayRecord()


@pytest.mark.parametrize("damage", [no_advert, bad_report, no_words])
def test_a_damaged_upload_is_no_part_of_the_sum(
    damage: Callable[[RecordDict], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    total, tally = SmallSums(monkeypatch, tamper=damaging(damage)).sum()
    assert (tally.answered, tally.void, list(tally.failures)) == (SILOS - 1, "", ["silo-02"])
    assert total["count"] == SILOS - 1


# Messages that are not what they should be.


def showing(sums: SmallSums, change: Callable[[RecordDict], None]) -> None:
    """Change what one silo is shown in an upload's message."""

    def alter(message: Message) -> Message | None:
        if message.metadata.dst_node_id != LOST or step_of(message) != "train":
            return None
        content = RecordDict(dict(message.content))
        change(content)
        return changed(message, content)

    sums.silos.alter = alter


def other_model(content: RecordDict) -> None:
    put_tensors(content, "held", {"model": torch.full((3,), 77.0)})


def other_order(content: RecordDict) -> None:
    put_facts(content, "order", {"round": 99})


def another_record(content: RecordDict) -> None:
    put_facts(content, "more", {})


def other_scales(content: RecordDict) -> None:
    Template(TEMPLATE.shapes, {"delta": [0.1, 0.2]}).put(content)


VIEWS = [other_model, other_order, another_record, other_scales]


@pytest.mark.parametrize("change", VIEWS)
def test_a_silo_that_is_shown_something_else_voids_the_sum(
    change: Callable[[RecordDict], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch)
    showing(sums, change)
    total, tally = sums.sum()
    assert total == {}
    assert "does not add up" in tally.void
    sums.silos.alter = lambda message: None
    again, after = sums.sum()
    assert (after.void, float(again["count"])) == ("", SILOS)


def test_a_run_whose_silo_is_shown_another_bank_applies_nothing(
    settings: Callable[..., Settings],
) -> None:
    altered_ones: list[Message] = []

    def prepare(grid: InProcessGrid) -> None:
        push = grid.push_messages

        def altered(messages: Any) -> Any:
            made = []
            for message in messages:
                meta = message.metadata
                singled_out = (LOST, "evaluate", "1")
                found = (meta.dst_node_id, meta.message_type, meta.group_id) == singled_out
                if found and not altered_ones:
                    content = RecordDict(dict(message.content))
                    order = get_facts(content, "order")
                    order["tasks"] = {task: 7 - row for task, row in order["tasks"].items()}
                    put_facts(content, "order", order)
                    message = changed(message, content)
                    altered_ones.append(message)
                made.append(message)
            return push(made)

        grid.push_messages = altered  # type: ignore[method-assign]

    run = federate({**settings(privacy="secagg"), **QUICK}, prepare=prepare)
    (event,) = run.events
    assert (event["round"], event["event"], event["numbers"]["phase"]) == (1, "void", "assess")
    assert "does not add up" in event["why"]
    assert experts(run) == experts(federate({**settings(privacy="sim"), **QUICK}))


def test_a_tampered_inbox_is_refused_and_counts_as_a_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tamper(content: RecordDict) -> None:
        own = dict(content.config_records[OWN])
        checks = {"session": is_bytes(16), "sealed": is_map(is_bytes())}
        inbox = unpack(own["inbox"], "shares", **checks)  # type: ignore[arg-type]
        sealed = inbox["sealed"]["silo-00"]
        inbox["sealed"]["silo-00"] = sealed[:-1] + bytes([sealed[-1] ^ 1])
        content[OWN] = ConfigRecord({**own, "inbox": pack(inbox)})

    sums = SmallSums(monkeypatch)
    showing(sums, tamper)
    total, tally = sums.sum()
    assert (tally.answered, tally.void) == (SILOS - 1, "")
    assert "tampered with" in tally.failures["silo-02"]
    assert total["count"] == SILOS - 1


@pytest.mark.parametrize("step", ["advertise", "share", "train", "confirm", "unmask"])
def test_a_message_that_comes_twice_is_refused(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, confirm=True)
    sums.sum()
    old = next(m for m, _ in sums.silos.seen if step_of(m) == step)
    reply = sums.silos.say(changed(old, old.content))
    assert reply.has_error()
    assert "once" in reply.error.reason or "sessions never repeat" in reply.error.reason
    assert sums.sum()[1].failures == {}


def test_one_model_is_not_summed_for_two_sets_of_silos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of the two sums would be one silo's numbers."""
    sums = SmallSums(monkeypatch)
    assert sums.sum()[1].void == ""
    assert sums.sum(same_model=True)[1].void == ""
    total, tally = sums.sum(1, 2, 4, same_model=True)
    assert total == {}
    assert "was unmasked before, for other survivors" in tally.failures["silo-00"]


def test_a_bank_that_did_not_move_is_not_summed_again_over_other_silos(
    settings: Callable[..., Settings],
) -> None:
    """The difference of the two sums would be one silo's: a void sum costs nothing here."""
    still = {"num-server-rounds": 3, "server-learning-rate": 0.0, "eval-every": 3}
    chosen = {**settings(privacy="secagg"), **QUICK, **still}
    run = federate(chosen, tamper=losing("train", LOST, first=2, last=2))
    assert {event["round"] for event in run.events} == {2}
    (void,) = [event for event in run.events if event["event"] == "void"]
    assert void["numbers"] == {"phase": "train", "attempt": 1}  # and it is not asked for again
    refusals = [event["why"] for event in run.events if "unmasked before" in event["why"]]
    assert len(refusals) == SILOS - 1
    assert [row["loss_train"] is None for row in run.rounds] == [True, False, True, False]
    assert run.rounds[3]["ppl"] is not None


@pytest.mark.parametrize(("least", "said"), [(1, False), (3, False), (4, True)])
def test_a_silo_lost_after_the_count_may_leave_too_few(
    least: int, said: bool, settings: Callable[..., Settings]
) -> None:
    """Four silos train both experts; one of them falls out."""
    once = {"num-server-rounds": 1, "rho": 0.0, "privacy": "sim", "c-min": least}
    run = federate({**settings(), **QUICK, **once}, tamper=losing("train", LOST))
    found = [event for event in run.events if event["event"] == "below-c-min"]
    assert len(run.events) == 1 + said
    assert [(event["round"], event["slots"], event["numbers"]) for event in found] == [
        (1, [0, 1], {"counted": [4, 4], "lost": 1})
    ] * said
