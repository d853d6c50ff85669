"""What leaves a silo: sums alone, or, under full reporting, its own figures beside them.

Removed by hand, each turned a test here red: the fold of tasks; the roster in a silo's decision;
the check of reports; the sums in place of rows where a report is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedvemoe_app.config import RunConfig
from fedvemoe_app.evaluation.histogram import edges, transfer_edges
from fedvemoe_app.flower.messages.consent import reports_in_full
from fedvemoe_app.flower.messages.privacy import fitted
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate, without_seconds

LOCAL = {"silo-00": 5.0, "silo-01": 9.0, "silo-02": 1e3, "silo-03": 1e6}
"""Perplexities alone: two that are hard to beat, two that are not."""
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

        folder = tmp_path_factory.mktemp(reporting)
        baselines = folder / "local.json"
        baselines.write_text(json.dumps({"clients": {s: {"ppl": p} for s, p in LOCAL.items()}}))
        settings = settings_in(folder, reporting=reporting, local_baseline_json=str(baselines))
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
        *("gain", "gain_variance", "displaced", "scores", "ppl_histogram"),
        *("transfer", "transfer_histogram"),
        *("unhappy", "shared", "edge", "merged"),
    },
    "query.sketch": {"silos", "first", "second"},
    "query.cluster": {"members", "vectors", "cosine"},
    "train": {
        *("silos", "tokens", "loss", "silo_weight", "weight"),
        *("wishing", "wishes", "wishes_squared"),
    },
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
        # The end of the worst silo's bucket, which is 16 % above its beginning.
        assert row["ppl_worst"] > row["ppl"]


def test_full_reporting_adds_a_report_and_changes_nothing_else(
    full: tuple[Run, Replies], aggregate: tuple[Run, Replies]
) -> None:
    run, replies = full
    who = {"category", "domain", "tasks"}
    beliefs = who | {"responsibilities", "active", "share", "private", "scores"}
    beliefs |= {"negative_transfer"}
    said = {"evaluate": beliefs, "query.sketch": who, "train": who, "query.hello": {"name"}}
    for kind, reply in replies:
        if kind in said:
            assert set(get_facts(reply.content, "report")) == said[kind]
        else:
            assert records(reply) == {"sums", "sums.index"}
    own = ("ppl_worst", "bytes_up", "negative_transfer_worst")
    plain, mine = (
        [{k: v for k, v in row.items() if k not in own} for row in without_seconds(one)]
        for one in (aggregate[0], run)
    )
    assert plain == mine


# Negative transfer, and the worst silo, from sums.


def test_the_sums_tell_what_the_rows_of_silos_would(
    full: tuple[Run, Replies], aggregate: tuple[Run, Replies]
) -> None:
    for mine, theirs in zip(full[0].rounds, aggregate[0].rounds, strict=True):
        rows = [row for row in full[0].clients if row["round"] == mine["round"]]
        harm = [row["negative_transfer"] or 0.0 for row in rows]
        assert theirs["negative_transfer_share"] == sum(value > 0 for value in harm) / SILOS
        assert theirs["negative_transfer_mean"] == pytest.approx(sum(harm) / SILOS)
        positive = sum(max(0.0, value) for value in harm) / SILOS
        assert theirs["negative_transfer_mean_positive"] == pytest.approx(positive)
        assert mine["negative_transfer_worst"] == max(harm)
        assert 0 <= theirs["negative_transfer_worst"] - max(harm) <= 0.05 or max(harm) > 1
        for name, ends, values in (
            ("ppl_histogram", edges(), [row["ppl"] or 0.0 for row in rows]),
            ("transfer_histogram", transfer_edges(), harm),
        ):
            counts: list[int] = theirs[name]  # type: ignore[literal-required]
            assert (sum(counts), len(counts)) == (SILOS, len(ends) - 1)
            assert sum(counts[: len(counts) // 2]) == sum(
                value <= ends[len(counts) // 2] for value in values
            )
    assert 0 < (aggregate[0].rounds[0]["negative_transfer_share"] or 0.0) < 1


# Tasks that few silos hold.


def test_under_aggregate_reporting_no_row_is_one_silos(settings: Callable[..., Settings]) -> None:
    """Every task of the small bank has one holder: nothing is left but the row of all."""
    quick = {"num-server-rounds": 1, "start": "none", "target-modules": "q_proj"}
    chosen = {**settings(privacy="sim", reporting="aggregate", c_min=2), **quick}
    run = federate(chosen)
    assert run.config["c-min"] == 2
    assert [(row["round"], row["task"], row["category"]) for row in run.tasks] == [
        (number, "all tasks", "") for number in (0, 1)
    ]
    for row, of_round in zip(run.tasks, run.rounds, strict=True):
        assert (row["ppl"], row["rouge_l"]) == (of_round["ppl"], of_round["rouge_l"])
        assert row["tokens"] > 0
    shown = federate({**chosen, "run-name": "shown", "reporting": "full"})
    assert len(shown.tasks) == 2 * 8
    for mine, theirs in zip(run.rounds, shown.rounds, strict=True):
        assert mine["ppl"] == pytest.approx(theirs["ppl"], rel=1e-6)
        assert mine["exact_match"] == theirs["exact_match"]


# Who decides.


def silo(asked: Settings, **own: str) -> Context:
    config = {key.replace("_", "-"): value for key, value in own.items()}
    return Context(1, 1, config, RecordDict(), asked)  # type: ignore[arg-type]


KEY = {"identity_key": "silo-00.pem"}
ROSTER: Settings = {"roster": "roster.json"}
DECISIONS: list[tuple[Settings, dict[str, str], bool]] = [
    ({}, {}, True),
    ({"reporting": "auto"}, {}, True),
    ({"reporting": "aggregate"}, {}, False),
    ({"reporting": "full"}, {}, True),
    ({}, KEY, False),
    ({"reporting": "full"}, KEY, False),
    ({"reporting": "full"}, {**KEY, "reporting": "full"}, True),
    ({"reporting": "aggregate"}, {**KEY, "reporting": "full"}, False),
    (ROSTER, {}, False),
    (ROSTER, {**KEY, "reporting": "full"}, False),
    ({**ROSTER, "reporting": "full"}, {}, True),
    ({**ROSTER, "reporting": "full"}, {**KEY, "reporting": "full"}, True),
]


@pytest.mark.parametrize(("asked", "own", "answer"), DECISIONS)
def test_a_silo_decides_whether_it_reports_in_full(
    asked: Settings, own: dict[str, str], answer: bool
) -> None:
    assert reports_in_full(silo(asked, **own)) == answer


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, "full"),
        (ROSTER, "aggregate"),
        ({**ROSTER, "reporting": "full"}, "full"),
        ({"reporting": "aggregate"}, "aggregate"),
    ],
)
@pytest.mark.parametrize("privacy", ["none", "secagg"])
def test_a_run_keeps_what_auto_stands_for(asked: Settings, kept: str, privacy: str) -> None:
    config = RunConfig.from_flat({**asked, "privacy": privacy})
    assert fitted(config, 12).output.reporting == kept


# Reports of a wrong form.

WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda report: [1],
    "no scores": lambda report: {k: v for k, v in report.items() if k != "scores"},
    "scores of another length": lambda report: {**report, "scores": {"a": [1.0]}},
    "scores that are words": lambda report: {**report, "scores": {"a": ["1"] * 6}},
    "an expert that is not there": lambda report: {**report, "active": [2]},
    "too many responsibilities": lambda report: {**report, "responsibilities": [0.1] * 9},
    "no number": lambda report: {**report, "negative_transfer": float("nan")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_report_of_a_wrong_form_costs_its_row(
    wrong: str, settings: Callable[..., Settings], tmp_path: Any
) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.dst_node_id) == ("evaluate", 3):
            report = get_facts(reply.content, "report")
            put_facts(reply.content, "report", WRONG[wrong](report))
        return reply

    quick = {"num-server-rounds": 1, "start": "none", "target-modules": "q_proj"}
    quick |= {"generate-examples": 0, "eval-examples": 1, "local-steps": 1}
    run = federate({**settings(), **quick}, tamper=tamper)
    assert {row["client"] for row in run.clients} == {"silo-00", "silo-01", "silo-03"}
    for row, event in zip(run.rounds, run.events, strict=True):
        assert (event["round"], event["event"]) == (row["round"], "bad-report")
        assert event["numbers"] == {"silo": "silo-02", "phase": "assess"}
        assert "its report" in event["why"]
        assert sum(row["mass"] or ()) == pytest.approx(SILOS)
        assert row["ppl_worst"] in [pytest.approx(edge) for edge in edges()]
