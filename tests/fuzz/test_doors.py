"""Damaged messages through the real doors: a ClientApp, and a server whose silo sends rubbish.

Whatever a silo sends costs its own part; whatever a silo is sent, it answers, and it gives nothing
away for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from flwr.app import Message, RecordDict
from hypothesis import HealthCheck, given
from hypothesis import settings as runs
from hypothesis import strategies as some

from fedvemoe_app.flower.programs.inprocess import Tamper
from tests.federation import SILOS, Settings, federate
from tests.flower.small_sums import SmallSums
from tests.fuzz.mutations import record_mutated

BAD = 3  # the node of silo-02
MODES = ("secagg", "sim", "none")
QUICK = runs(
    deadline=None,
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def spoiling(rng: Random, share: float = 1.0, *, hello: bool = False) -> Tamper:
    """Damage replies of one silo."""

    def tamper(message: Message, reply: Message) -> Message:
        spare = message.metadata.message_type == "query.hello" and not hello
        mine = message.metadata.dst_node_id == BAD and not spare
        if mine and not reply.has_error() and rng.random() < share:
            reply.content = record_mutated(rng, reply.content)
        return reply

    return tamper


@pytest.mark.parametrize("privacy", [pytest.param("secagg", marks=pytest.mark.slow), "sim", "none"])
@QUICK
@given(rng=some.randoms(use_true_random=False))
def test_damaged_replies_cost_one_silo_its_part(
    privacy: str, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    sum_beside_rubbish(privacy, rng, monkeypatch)


def sum_beside_rubbish(privacy: str, rng: Random, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, privacy=privacy, tamper=spoiling(rng, 0.5))
    for _ in range(2):
        total, tally = sums.sum()
        assert tally.void or tally.answered >= SILOS - 1
        assert set(tally.failures) <= {"silo-02"} or tally.void
        if not tally.void and privacy != "none":
            assert float(total["count"]) == tally.answered or "silo-02" not in tally.failures


STEPS = [("secagg", kind) for kind in ("advertise", "share", "train", "confirm", "unmask")]


@pytest.mark.parametrize(("privacy", "kind"), [*STEPS, ("sim", "train"), ("none", "train")])
@QUICK
@given(rng=some.randoms(use_true_random=False))
def test_a_silo_answers_whatever_it_is_sent(
    privacy: str, kind: str, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error or a reply; and the sums after it are what they would have been."""
    answer_rubbish(privacy, kind, rng, monkeypatch)


def answer_rubbish(privacy: str, kind: str, rng: Random, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, privacy=privacy, confirm=privacy == "secagg")

    def alter(message: Message) -> Message | None:
        meta = message.metadata
        if meta.dst_node_id != BAD or meta.message_type.rpartition("_")[2] != kind:
            return None
        content = record_mutated(rng, RecordDict(dict(message.content)))
        return Message(content, meta.dst_node_id, meta.message_type, group_id=meta.group_id)

    sums.silos.alter = alter
    sums.sum()
    answered = [m.metadata.dst_node_id for m, _ in sums.silos.seen].count(BAD)
    assert answered >= 1
    sums.silos.alter = lambda message: None
    total, tally = sums.sum()
    assert (tally.answered, tally.void, float(total["count"])) == (SILOS, "", SILOS)


@pytest.mark.slow
@pytest.mark.parametrize("privacy", MODES)
def test_both_doors_at_length(privacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(150):
        sum_beside_rubbish(privacy, Random(seed), monkeypatch)
    for kind in (kind for mode, kind in STEPS if mode == privacy or kind == "train"):
        for seed in range(40):
            answer_rubbish(privacy, kind, Random(seed), monkeypatch)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("privacy", "seed"),
    [("secagg", 1), *(pytest.param(p, 2, marks=SLOW) for p in ("secagg", "sim", "none"))],
)
def test_a_run_goes_on_beside_a_silo_that_sends_rubbish(
    privacy: str, seed: int, settings: Callable[..., Settings]
) -> None:
    small = {"local-steps": 1, "generate-examples": 0, "eval-examples": 1, "c-min": 1}
    chosen = {**settings(privacy=privacy, num_server_rounds=1), **small, "reporting": "full"}
    chosen |= {"num-server-rounds": 2, "target-modules": "q_proj", "void-retries": 3}
    run = federate(chosen, tamper=spoiling(Random(seed), 0.7))
    assert [row["round"] for row in run.rounds] == [0, 1, 2]
    assert {row["numbers"].get("silo", "silo-02") for row in run.events} == {"silo-02"}
    for row in run.rounds:
        assert row["ppl"] is not None
        assert sum(row["mass"] or ()) >= SILOS - 1
