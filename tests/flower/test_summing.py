"""The summing grid: one reply that is the plain sum of the silos that gave a usable one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors, size_in_bytes
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.sums.one_reply import Tally, sums_of
from fedvemoe_app.flower.sums.plain import SummingGrid

Answer = RecordDict | Error | None


class ScriptedGrid(InProcessGrid):
    """Answers each node's message as told, one reply a poll, in the order of ``order``.

    None is never answered; ``refused`` nodes' messages are not taken.
    """

    def __init__(
        self,
        answers: Mapping[int, Answer],
        order: Sequence[int] = (),
        *,
        refused: Sequence[int] = (),
        short: bool = False,
    ) -> None:
        super().__init__(ClientApp(), {}, len(answers))
        self.answers = answers
        self.order = list(order or answers)
        self.refused = refused
        self.short = short
        self.waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"to-{node}"
            ids.append("" if node in self.refused else f"to-{node}")
            answer = self.answers[node]
            if answer is not None and node not in self.refused:
                self.waiting[f"to-{node}"] = Message(answer, reply_to=message)
        return ids[:-1] if self.short else ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for node in self.order:
            if reply := self.waiting.pop(f"to-{node}", None):
                return [reply]
        return []


def content(sums: Mapping[str, Tensor], report: object = None) -> RecordDict:
    made = RecordDict()
    put_tensors(made, "sums", sums)
    if report is not None:
        put_facts(made, "report", report)
    return made


def names(count: int) -> dict[int, str]:
    """Return silo names whose order is not that of the nodes."""
    return {node: f"silo-{count - node:02d}" for node in range(1, count + 1)}


def ask(
    grid: ScriptedGrid, *, timeout: float = 0.3, order: RecordDict | None = None
) -> tuple[dict[str, Tensor], Tally]:
    """Ask every node of the grid; return the sums and the tally."""
    messages = [Message(order or RecordDict(), node, "train") for node in grid.answers]
    summing = SummingGrid(grid, names(len(grid.answers)))
    (reply,) = summing.send_and_receive(messages, timeout=timeout)
    return sums_of(reply), Tally.of(reply)


def random_sums(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wild = 10.0 ** torch.randint(-8, 8, (40,), generator=generator)
    return {
        "delta/x": (torch.randn(40, generator=generator) * wild).view(4, 10),
        "mass": torch.rand(3, dtype=torch.float64, generator=generator),
        "silos": torch.tensor(1.0, dtype=torch.float64),
    }


def test_the_reply_is_the_plain_sum() -> None:
    vectors = {node: random_sums(node) for node in range(1, 4)}
    sums, tally = ask(ScriptedGrid({node: content(sums) for node, sums in vectors.items()}))
    for name in vectors[1]:
        plain = torch.stack([vector[name].double() for vector in vectors.values()]).sum(dim=0)
        torch.testing.assert_close(sums[name], plain, rtol=1e-14, atol=0)
        assert sums[name].dtype == torch.float64
    assert (tally.answered, tally.failures) == (3, {})


def test_the_sum_does_not_depend_on_who_answers_first() -> None:
    answers = {node: content(random_sums(node)) for node in range(1, 4)}
    found = [ask(ScriptedGrid(answers, order))[0] for order in permutations(answers)]
    assert all(torch.equal(other[name], found[0][name]) for other in found for name in other)


def test_nor_on_how_nodes_are_numbered() -> None:
    vectors = [random_sums(seed) for seed in range(3)]

    def total(nodes: Sequence[int]) -> dict[str, Tensor]:
        answers = {node: content(vectors[i]) for i, node in enumerate(nodes)}
        grid = ScriptedGrid(dict(sorted(answers.items())))
        summing = SummingGrid(grid, {node: f"silo-{i:02d}" for i, node in enumerate(nodes)})
        (reply,) = summing.send_and_receive(
            [Message(RecordDict(), node, "train") for node in answers], timeout=1
        )
        return sums_of(reply)

    found = [total(nodes) for nodes in permutations((1, 2, 3))]
    assert all(torch.equal(other[name], found[0][name]) for other in found for name in other)


def not_finite(value: float) -> RecordDict:
    broken = random_sums(9)
    broken["delta/x"][2, 2] = value
    return content(broken)


def damaged() -> RecordDict:
    made = content(random_sums(9))
    made["sums.index"] = ConfigRecord({"json": "{"})
    return made


def damaged_report() -> RecordDict:
    made = content(random_sums(9))
    made["report"] = ConfigRecord({"json": "{"})
    return made


USELESS: dict[str, tuple[Answer, str]] = {
    "an error": (Error(1000, "silo says why"), "silo says why"),
    "an error without words": (Error(3), "error 3"),
    "no reply": (None, "no answer in time"),
    "NaN": (not_finite(float("nan")), "not finite"),
    "infinity": (not_finite(float("inf")), "not finite"),
    "another shape": (content({**random_sums(9), "mass": torch.zeros(2)}), "names or shapes"),
    "a name too many": (content({**random_sums(9), "more": torch.zeros(2)}), "names or shapes"),
    "a name too few": (content({"mass": torch.zeros(3)}), "names or shapes"),
    "nothing": (RecordDict(), "sums.index"),
    "damage": (damaged(), "damaged"),
    "a damaged report": (damaged_report(), "damaged"),
}


@pytest.mark.parametrize("what", USELESS)
def test_a_useless_reply_is_a_failure_with_its_reason_and_no_part_of_the_sum(what: str) -> None:
    answer, reason = USELESS[what]
    # node 3 goes by silo-00: its good reply is the first to be added, the useless one the last
    answers = {1: answer, 2: content(random_sums(2)), 3: content(random_sums(3))}
    sums, tally = ask(ScriptedGrid(answers))
    without, _ = ask(ScriptedGrid({1: RecordDict(), **{k: answers[k] for k in (2, 3)}}))
    assert all(torch.equal(sums[name], without[name]) for name in sums)
    assert tally.answered == 2
    assert list(tally.failures) == ["silo-02"]
    assert reason in tally.failures["silo-02"]
    assert sorted(tally.reports) == []


def test_a_message_that_was_not_taken_is_a_silo_that_did_not_answer() -> None:
    answers = {node: content(random_sums(node)) for node in (1, 2)}
    _, tally = ask(ScriptedGrid(answers, refused=[2]))
    assert (tally.answered, tally.failures) == (1, {"silo-00": "no answer in time"})


def test_messages_that_are_refused_as_a_whole_end_the_run() -> None:
    answers = {node: content(random_sums(node)) for node in (1, 2)}
    with pytest.raises(RunError, match="too large"):
        ask(ScriptedGrid(answers, short=True))


def test_nobody_answers() -> None:
    sums, tally = ask(ScriptedGrid({1: None, 2: Error(5, "gone")}))
    assert (sums, tally.answered) == ({}, 0)
    assert tally.failures == {"silo-01": "no answer in time", "silo-00": "gone"}


def test_reports_come_by_name() -> None:
    answers = {1: content({}, {"a": 1}), 2: content({}), 3: content({}, [2])}
    _, tally = ask(ScriptedGrid(answers))
    assert tally.reports == {"silo-02": {"a": 1}, "silo-00": [2]}


def test_bytes_are_counted_both_ways_and_failures_cost_nothing() -> None:
    good = content(random_sums(1), {"who": "me"})
    order = content({"bank": torch.zeros(100)})
    _, tally = ask(ScriptedGrid({1: good, 2: Error(1, "no")}), order=order)
    assert tally.bytes_up == size_in_bytes(good) > 160
    assert tally.bytes_down == 2 * size_in_bytes(order) > 800
    assert tally.seconds > 0


def test_every_reply_is_told_as_it_comes() -> None:
    told: list[tuple[str, int, int]] = []
    grid = ScriptedGrid({1: content({}), 2: Error(1, "no"), 3: content({})}, order=(2, 3, 1))
    summing = SummingGrid(grid, names(3), replied=lambda *what: told.append(what))
    list(summing.send_and_receive([Message(RecordDict(), n, "train") for n in (1, 2, 3)]))
    assert told == [("silo-01", 1, 3), ("silo-00", 2, 3), ("silo-02", 3, 3)]
