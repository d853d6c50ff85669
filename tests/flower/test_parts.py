"""Large messages in parts: the same sums bit for bit, and never half a vector in one.

Removed by hand, each turned a test here red: the hash of a piece; the bound on what a reply may
have; dropping pieces with the next phase; giving a piece once; masks bound to what came in parts.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.parts import PIECE, PLAN, Plan, piece_in, split, whole
from fedvemoe_app.flower.messages.wire import (
    arrays_in,
    get_facts,
    get_tensors,
    put_facts,
    put_tensors,
)
from fedvemoe_app.flower.silo.parts import AHEAD, REPLY
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.flower.small_sums import SmallSums, equal

QUICK: Settings = {
    "c-min": 1,
    "reporting": "aggregate",
    "start": "none",
    "num-server-rounds": 1,
    "generate-examples": 0,
    "eval-examples": 1,
    "target-modules": "q_proj",
    "probe-tokens": 20,
    "local-steps": 1,
}
TINY = 0.0001
"""Megabytes: an upload of the small sums is seven messages, what a silo is shown two."""
LOST = 3


def kind(message: Message) -> str:
    return message.metadata.message_type.rpartition(".")[2]


# One message and its pieces.


def large() -> RecordDict:
    content = RecordDict()
    put_tensors(content, "experts", {"x": torch.randn(50), "y": torch.rand(3).double()})
    put_tensors(content, "held", {"mark": torch.rand(7) > 0.5})
    put_facts(content, "order", {"round": 3})
    return content


@pytest.mark.parametrize("limit", [1, 37, 128, 512])
def test_a_message_comes_together_again(limit: int) -> None:
    content = large()
    first, rest = split(content, limit)
    plan = Plan.of(first)
    assert plan
    assert len(rest) == len(plan.hashes) - 1 > 0
    assert max(len(piece_in(message)) for message in (first, *rest)) <= limit
    found = whole(first, plan, lambda number: piece_in(rest[number - 1]))
    assert set(found) == set(content)
    assert get_facts(found, "order") == {"round": 3}
    for name in ("experts", "held"):
        mine, theirs = get_tensors(found, name), get_tensors(content, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_what_fits_is_left_alone() -> None:
    content = large()
    assert split(content, 10**6) == (content, [])
    assert Plan.of(content) is None


DAMAGED: list[Callable[[dict[str, Any]], object]] = [
    lambda plan: plan.update(piece=0),
    lambda plan: plan.update(piece="2"),
    lambda plan: plan["hashes"].pop(),
    lambda plan: plan.update(hashes=[1] * len(plan["hashes"])),
    lambda plan: plan["arrays"][0].pop(),
    lambda plan: plan["arrays"][0].__setitem__(5, -1),
    lambda plan: plan["arrays"][0].__setitem__(3, ["many"]),
    lambda plan: plan.pop("arrays"),
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_plan_is_an_error(damage: Callable[[dict[str, Any]], object]) -> None:
    first, _ = split(large(), 64)
    plan = get_facts(first, PLAN)
    damage(plan)
    put_facts(first, PLAN, plan)
    with pytest.raises(RunError, match="the plan of a message in parts is damaged"):
        Plan.of(first)


# Sums.


@pytest.mark.parametrize("privacy", ["none", "sim", "secagg"])
def test_sums_in_parts_are_the_same_bit_for_bit(
    privacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = SmallSums(monkeypatch, privacy=privacy, message_mb=TINY)
    plain = SmallSums(monkeypatch, privacy=privacy)
    for _ in range(2):
        (one, tally), (other, expected) = parted.sum(), plain.sum()
        assert equal(one, other)
        assert (tally.answered, tally.failures, tally.void) == (SILOS, {}, "")
        assert tally.bytes_up == expected.bytes_up
        assert tally.bytes_down == expected.bytes_down
    assert [kind(m) for m, _ in parted.silos.seen].count("part") >= 2 * 3 * SILOS
    assert not any(kind(m) in ("part", "ahead") for m, _ in plain.silos.seen)
    for _, reply in parted.silos.seen:
        sizes = [len(a.data) for r in reply.content.array_records.values() for a in r.values()]
        assert sum(sizes) <= TINY * 1e6
    for context in parted.silos.contexts.values():
        assert AHEAD not in context.state
        assert REPLY not in context.state


@pytest.mark.parametrize("privacy", [pytest.param("none", marks=pytest.mark.slow), "secagg"])
def test_a_run_in_parts_is_the_same_run(privacy: str, settings: Callable[..., Settings]) -> None:
    kinds: list[str] = []

    def watch(message: Message, reply: Message) -> Message:
        kinds.append(kind(message))
        return reply

    chosen = {**settings(privacy=privacy), **QUICK}
    plain = federate(chosen)
    run = federate({**chosen, "message-mb": 0.004, "run-name": "parts"}, tamper=watch)
    assert without_seconds(run) == without_seconds(plain)
    assert run.tasks == plain.tasks
    assert run.events == plain.events == []
    assert min(kinds.count("ahead"), kinds.count("part")) >= SILOS
    for path in (run.folder / "experts").rglob("*.safetensors"):
        other = plain.folder / path.relative_to(run.folder)
        assert path.read_bytes() == other.read_bytes()


# A silo whose parts do not come, or come wrong.


def nothing(message: Message, reply: Message) -> Message | None:
    return None


def bitten(message: Message, reply: Message) -> Message:
    data = piece_in(reply.content)
    put(reply.content, data[:-1] + bytes([data[-1] ^ 1]))
    return reply


def short(message: Message, reply: Message) -> Message:
    put(reply.content, piece_in(reply.content)[:-1])
    return reply


def empty(message: Message, reply: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def put(content: RecordDict, data: bytes) -> None:
    content[PIECE] = ArrayRecord({PIECE: Array("uint8", (len(data),), "bytes", data)})


def repeated() -> Callable[[Message, Message], Message]:
    """Answer every part with the first that came."""
    first: list[bytes] = []

    def tamper(message: Message, reply: Message) -> Message:
        first.append(piece_in(reply.content))
        put(reply.content, first[0])
        return reply

    return tamper


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (nothing, "part 3 of"),
    "damaged": (bitten, "part 3 of .* is damaged or belongs elsewhere"),
    "short": (short, "part 3 of .* is damaged or belongs elsewhere"),
    "missing": (empty, "without the piece"),
    "repeated": (repeated, "part 3 of .* is damaged or belongs elsewhere"),
}


@pytest.mark.parametrize("privacy", ["none", "sim", "secagg"])
@pytest.mark.parametrize("what", WRONG)
def test_a_silo_lost_between_parts_is_a_dropout_and_no_half_vector(
    what: str, privacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, reason = WRONG[what]
    wrong = wrong() if wrong is repeated else wrong
    met: list[Message] = []

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id != LOST or kind(message) != "part":
            return reply
        met.append(message)
        harmless = what != "repeated" and len(met) != 2
        return reply if harmless else wrong(message, reply)  # type: ignore[no-any-return]

    sums = SmallSums(monkeypatch, privacy=privacy, message_mb=TINY, tamper=tamper)
    total, tally = sums.sum()
    assert (tally.answered, tally.void, list(tally.failures)) == (SILOS - 1, "", ["silo-02"])
    assert re.search(reason, tally.failures["silo-02"])

    def lost(message: Message, reply: Message) -> Message | None:
        gone = message.metadata.dst_node_id == LOST and kind(message) == "train"
        return None if gone else reply

    plain = SmallSums(monkeypatch, privacy=privacy, tamper=lost).sum()[0]
    assert equal(total, plain)
    sums.silos.next = lambda message, reply: reply
    again, after = sums.sum()
    assert (after.answered, after.void, after.failures) == (SILOS, "", {})
    assert again["count"] == SILOS


def test_a_reply_of_more_than_was_asked_for_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == LOST and kind(message) == "train":
            plan = get_facts(reply.content, PLAN)
            plan["arrays"][0][5] += 10**9
            plan["piece"] = 10**9
            plan["hashes"] = plan["hashes"][:2]
            put_facts(reply.content, PLAN, plan)
        return reply

    sums = SmallSums(monkeypatch, message_mb=TINY, tamper=tamper)
    total, tally = sums.sum()
    assert "more than was asked for" in tally.failures["silo-02"]
    assert total["count"] == SILOS - 1


def test_parts_are_given_once_and_not_after_the_next_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(message: Message, reply: Message) -> Message | None:
        gone = message.metadata.dst_node_id == LOST and kind(message) == "part"
        return None if gone else reply

    sums = SmallSums(monkeypatch, privacy="sim", message_mb=TINY, tamper=missing)
    sums.sum()
    assert REPLY in sums.silos.contexts[LOST].state
    requests = [m for m, _ in sums.silos.seen if kind(m) == "part"]
    sums.silos.next = lambda message, reply: reply
    for node in (1, LOST):
        old = next(m for m in requests if m.metadata.dst_node_id == node)
        reply = sums.silos.say(Message(old.content, node, "query.part"))
        assert "fetched before, or is of another reply" in reply.error.reason
    assert sums.silos.say(Message(RecordDict(), LOST, "query.cluster")).has_error()
    assert REPLY not in sums.silos.contexts[LOST].state


# What goes ahead.


@pytest.mark.parametrize("privacy", ["none", "secagg"])
@pytest.mark.parametrize("how", ["lost", "damaged", "foreign"])
def test_a_silo_that_misses_a_part_of_its_message_is_a_dropout(
    how: str, privacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch, privacy=privacy, message_mb=TINY)

    def losing(message: Message, reply: Message) -> Message | None:
        gone = message.metadata.dst_node_id == LOST and kind(message) == "ahead"
        return None if gone else reply

    def alter(message: Message) -> Message | None:
        if message.metadata.dst_node_id != LOST or kind(message) != "ahead":
            return None
        content = RecordDict(dict(message.content))
        if how == "damaged":
            put(content, b"x" * len(piece_in(content)))
        else:
            put_facts(content, PLAN, {"id": "of another", "number": 1})
        return Message(content, LOST, "query.ahead")

    sums.silos.alter = alter if how != "lost" else lambda message: None
    sums.silos.next = losing if how == "lost" else sums.silos.next
    total, tally = sums.sum()
    assert (tally.answered, tally.void, list(tally.failures)) == (SILOS - 1, "", ["silo-02"])
    reasons = {"lost": "time ran out", "damaged": "is damaged", "foreign": "did not come"}
    assert reasons[how] in tally.failures["silo-02"]
    assert total["count"] == SILOS - 1


def test_masks_are_bound_to_what_came_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silo whose parts, plan and all, are those of another model makes the sum void."""
    sums = SmallSums(monkeypatch, message_mb=TINY)
    other: list[RecordDict] = []

    def alter(message: Message) -> Message | None:
        if message.metadata.dst_node_id != LOST or kind(message) not in ("ahead", "train"):
            return None
        if kind(message) == "ahead":
            bare = sums.message(LOST).content
            put_tensors(bare, "held", {"model": torch.full((3,), 77.0)})
            first, rest = split(bare, int(TINY * 1e6))
            other[:] = [first, *rest]
            return Message(other[1], LOST, "query.ahead")
        content = RecordDict({**message.content, PIECE: other[0][PIECE], PLAN: other[0][PLAN]})
        return Message(content, LOST, "train", group_id=message.metadata.group_id)

    sums.silos.alter = alter
    total, tally = sums.sum()
    assert total == {}
    assert "does not add up" in tally.void


# One upload at a time.


@pytest.mark.parametrize("message_mb", [0.0009, TINY])
@pytest.mark.parametrize("privacy", ["none", "sim", "secagg"])
def test_the_server_holds_one_upload_whatever_the_number_of_silos(
    privacy: str, message_mb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``none`` as well, where silos answer in the order of their names."""
    most = {}
    for silos in (4, 9):
        sums = SmallSums(monkeypatch, silos, privacy=privacy, message_mb=message_mb)
        alive: list[weakref.ref[Array]] = []
        found: list[int] = []

        def tamper(message: Message, reply: Message) -> Message:
            sums.silos.seen.clear()  # noqa: B023 - called at once
            if kind(message) in ("train", "part"):
                found.append(sum(upload() is not None for upload in alive))  # noqa: B023
                records = arrays_in(reply.content).values()
                alive.extend(weakref.ref(a) for r in records for a in r.values())  # noqa: B023
            return reply

        sums.silos.next = tamper
        total, _ = sums.sum()
        assert total["count"] == silos
        most[silos] = max(found)
        assert len(found) >= silos
    # The last upload is gone when the next is made; of one in parts, the first piece is held.
    assert most[4] == most[9] == (message_mb == TINY)
