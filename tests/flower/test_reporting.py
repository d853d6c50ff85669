"""What leaves a silo: sums alone, or, under full reporting, its own figures beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flwr.app import Message

from fedvemoe_app.flower.wire import get_facts, get_tensors
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate, without_seconds

Replies = list[tuple[str, Message]]


@pytest.fixture(scope="module")
def watched(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Run, Replies]]:
    """Run a federation under the given reporting; return it with every reply and its kind."""

    def run(reporting: str) -> tuple[Run, Replies]:
        replies: Replies = []

        def watch(message: Message, reply: Message) -> Message:
            replies.append((message.metadata.message_type, reply))
            return reply

        settings = settings_in(tmp_path_factory.mktemp(reporting), reporting=reporting)
        return federate({**settings, "num-server-rounds": 1}, tamper=watch), replies

    return run


@pytest.fixture(scope="module")
def aggregate(watched: Callable[[str], tuple[Run, Replies]]) -> tuple[Run, Replies]:
    return watched("aggregate")


@pytest.fixture(scope="module")
def full(watched: Callable[[str], tuple[Run, Replies]]) -> tuple[Run, Replies]:
    return watched("full")


def records(reply: Message) -> set[str]:
    return set(reply.content.keys())


def test_under_aggregate_reporting_only_sums_leave(aggregate: tuple[Run, Replies]) -> None:
    _, replies = aggregate
    kinds = {kind for kind, _ in replies}
    assert kinds == {"query.hello", "evaluate", "query.sketch", "query.cluster", "train"}
    for kind, reply in replies:
        if kind != "query.hello":
            assert records(reply) == {"sums", "sums.index"}


def test_the_only_other_thing_said_is_a_name(aggregate: tuple[Run, Replies]) -> None:
    _, replies = aggregate
    said = [get_facts(reply.content, "report") for kind, reply in replies if kind == "query.hello"]
    assert said == [{"name": f"silo-{i:02d}"} for i in range(SILOS)]


SUMS = {
    "evaluate": {
        *("silos", "tokens", "score", "mass", "contributors"),
        *("gain", "gain_squared", "displaced", "scores", "ppl_histogram"),
    },
    "query.sketch": {"silos", "first", "second"},
    "query.cluster": {"members", "vectors", "cosine"},
    "train": {"silos", "tokens", "loss", "silo_weight", "weight"},
    "query.hello": set(),
}


@pytest.mark.parametrize("kind", SUMS)
def test_sums_hold_what_adds_up_and_no_belief(kind: str, aggregate: tuple[Run, Replies]) -> None:
    for of, reply in aggregate[1]:
        if of == kind:
            found = {n.partition("/")[0] for n in get_tensors(reply.content, "sums")}
            assert found - {"delta", "squares"} == SUMS[kind]
            assert bool(found & {"delta", "squares"}) == (kind == "train")


def test_the_sums_of_a_phase_have_one_shape_in_all_silos(aggregate: tuple[Run, Replies]) -> None:
    for kind in SUMS:
        shapes = [
            {name: t.shape for name, t in get_tensors(reply.content, "sums").items()}
            for of, reply in aggregate[1]
            if of == kind
        ]
        assert all(shape == shapes[0] for shape in shapes)


def test_aggregate_reporting_writes_no_row_of_a_silo(aggregate: tuple[Run, Replies]) -> None:
    run, _ = aggregate
    assert not (run.folder / "clients.jsonl").exists()
    assert len(run.tasks) == 2 * 8
    for row in run.rounds:
        assert row["ppl"] is not None
        assert row["rouge_l"] is not None
        assert row["negative_transfer_share"] is None
        # The end of the worst silo's bucket, which is 16 % above its beginning.
        assert row["ppl_worst"] > row["ppl"]


def test_full_reporting_adds_a_report_and_changes_nothing_else(
    full: tuple[Run, Replies], aggregate: tuple[Run, Replies]
) -> None:
    run, replies = full
    who = {"category", "domain", "tasks"}
    beliefs = who | {"responsibilities", "active", "share", "private", "scores"}
    said = {"evaluate": beliefs, "query.sketch": who, "train": who, "query.hello": {"name"}}
    for kind, reply in replies:
        if kind in said:
            assert set(get_facts(reply.content, "report")) == said[kind]
        else:
            assert records(reply) == {"sums", "sums.index"}
    own = ("ppl_worst", "bytes_up")
    plain, mine = (
        [{k: v for k, v in row.items() if k not in own} for row in without_seconds(one)]
        for one in (aggregate[0], run)
    )
    assert plain == mine
