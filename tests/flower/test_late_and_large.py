"""A silo that answers after its time, and one that sends far more than it was asked for.

Removed by hand, each turned a test here red: measuring a reply before it is read; keeping a silo's
words to one line.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message

from fedvemoe_app.flower.messages.wire import put_facts
from fedvemoe_app.flower.sums.one_reply import Tally, sums_of
from tests.federation import SILOS
from tests.flower.small_sums import SmallSums, equal

BAD = 3  # the node of silo-02
MODES = ["secagg", "sim", "none"]


@pytest.mark.parametrize("privacy", MODES)
def test_a_reply_that_comes_too_late_is_never_read(
    privacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch, privacy=privacy)
    pull, late = sums.silos.pull_messages, dict[str, Message]()

    def in_time(ids: Iterable[str]) -> list[Message]:
        """Hold the slow silo's training back; the others' replies come."""
        found = list(pull(ids))
        for reply in found:
            if reply.metadata.src_node_id == BAD and reply.metadata.message_type == "train":
                late[reply.metadata.reply_to_message_id] = reply
        return [r for r in found if r.metadata.reply_to_message_id not in late]

    monkeypatch.setattr(sums.silos, "pull_messages", in_time)
    messages = [sums.message(node) for node in sums.silos.contexts]
    (reply,) = sums.server.send_and_receive(messages, timeout=0.2)
    tally = Tally.of(reply)
    assert len(late) == 1
    assert (tally.answered, tally.failures) == (SILOS - 1, {"silo-02": "no answer in time"})
    assert float(sums_of(reply)["count"]) == SILOS - 1
    sums.values = {silo: {n: 2 * x for n, x in own.items()} for silo, own in sums.values.items()}
    late.clear()
    monkeypatch.setattr(sums.silos, "pull_messages", pull)
    again, tally = sums.sum()
    assert (tally.answered, float(again["count"])) == (SILOS, 2 * SILOS)


def huge(message: Message, reply: Message) -> Message:
    """Add 40 MB that nobody asked for."""
    if message.metadata.dst_node_id == BAD and not reply.has_error():
        reply.content["more"] = ArrayRecord({"x": Array(np.zeros(5_000_000))})
    return reply


def wordy(message: Message, reply: Message) -> Message:
    """Add a text that no answer needs."""
    if message.metadata.dst_node_id == BAD and not reply.has_error():
        put_facts(reply.content, "report", "x" * 10_000_000)
    return reply


@pytest.mark.parametrize("privacy", MODES)
@pytest.mark.parametrize(("more", "said"), [(huge, "more than was asked for"), (wordy, "texts")])
def test_more_than_was_asked_for_is_refused_unread(
    privacy: str, more: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, tally = SmallSums(monkeypatch, privacy=privacy, tamper=more).sum()  # type: ignore[arg-type]
    assert said in tally.failures["silo-02"]
    plain = SmallSums(monkeypatch, privacy=privacy, tamper=lambda m, r: lost(m) and r).sum()[0]
    assert tally.answered == SILOS - 1
    assert equal(total, plain)


def lost(message: Message) -> Message | None:
    return None if message.metadata.dst_node_id == BAD else message


def test_a_silo_s_words_are_one_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == BAD:
            return Message(
                Error(1, "\x1b[2Jgone\nround 9: all is well" + "!" * 9999), reply_to=message
            )
        return reply

    why = SmallSums(monkeypatch, privacy="none", tamper=tamper).sum()[1].failures["silo-02"]
    assert why.startswith(" [2Jgone round 9: all is well!")
    assert len(why) == 2000
