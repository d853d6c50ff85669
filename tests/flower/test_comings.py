"""Silos that join, leave and come back during a run, as the server finds them among the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from flwr.app import Context, Message, RecordDict

from fedvemoe_app.client_app import app as client_app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.programs.inprocess import InProcessGrid
from fedvemoe_app.flower.server.run import run
from fedvemoe_app.report.journal import Run, read_run
from tests.federation import SILOS, Settings, without_seconds
from tests.flower.open_world import QUICK, Watch

MOVED = 9
EVERY: Settings = {**QUICK, "eval-every": 1, "local-steps": 2, "probe-tokens": 30}


class Comings(InProcessGrid):
    """Shows the nodes that ``there`` names in a round; no other is ever sent a message.

    The server looks at the start, and once in each round, after the training.

    Node 9 is silo-01 on another machine: it remembers nothing.
    """

    def __init__(self, settings: Settings, watch: Watch, there: Mapping[int, list[int]]) -> None:
        super().__init__(client_app, settings, SILOS, tamper=self._heard)
        old = self.contexts[2]
        self.contexts[MOVED] = Context(1, MOVED, old.node_config, RecordDict(), old.run_config)
        self._watch, self._there, self._looks = watch, there, -1

    def get_node_ids(self) -> list[int]:
        self._looks += 1
        return self._now()

    def _now(self) -> list[int]:
        return self._there[max(round_ for round_ in self._there if round_ <= self._looks)]

    def _heard(self, message: Message, reply: Message) -> Message | None:
        assert message.metadata.dst_node_id in self._now()
        return self._watch(message, reply)


@pytest.fixture
def play(settings: Callable[..., Settings]) -> Callable[..., tuple[Run, Watch]]:
    """Run a federation whose nodes change after the training of the named rounds."""

    def played(there: Mapping[int, list[int]], rounds: int, changes: Settings) -> tuple[Run, Watch]:
        watch = Watch()
        flat = {**settings(), **EVERY, "num-server-rounds": rounds, **changes}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedvemoe_app.flower.server.run.draw_all", lambda ended: [])
            return read_run(run(Comings(flat, watch, there), RunConfig.from_flat(flat))), watch

    return played


THERE = {0: [1, 2, 3, 4], 1: [1, 2, 4], 2: [1, 3, 4], 3: [1, 3, 4, MOVED]}
"""silo-02 is away in round 1; silo-01 goes in round 2 and is back in round 3 on another node."""


@pytest.mark.parametrize("privacy", ["none", "secagg"])
def test_silos_come_and_go(privacy: str, play: Callable[..., tuple[Run, Watch]]) -> None:
    ended, watch = play(THERE, 4, {"privacy": privacy, "c-min": 1})
    told = [(row["round"], row["event"], row["numbers"].get("silo")) for row in ended.events]
    assert told == [
        (1, "leave", "silo-02"),
        (2, "join", "silo-02"),
        (2, "leave", "silo-01"),
        (3, "join", "silo-01"),
    ]
    assert [round(sum(row["mass"] or ())) for row in ended.rounds] == [4, 3, 3, 4, 4]
    rows = [{row["client"] for row in ended.clients if row["round"] == r} for r in range(5)]
    everybody = {f"silo-0{i}" for i in range(4)}
    assert rows == [
        everybody,
        everybody - {"silo-02"},
        everybody - {"silo-01"},
        everybody,
        everybody,
    ]
    asked = [{m.metadata.dst_node_id for m, _ in watch.of("train", r)} for r in range(1, 5)]
    assert asked == [{1, 2, 3, 4}, {1, 2, 4}, {1, 3, 4}, {1, 3, 4, MOVED}]
    greeted = [
        m.metadata.dst_node_id for m, _ in watch.passed if "hello" in m.metadata.message_type
    ]
    assert sorted(greeted) == [1, 2, 3, 4, MOVED]
    phases = [[p for p in ("hello", "sketch") if p in row["seconds"]] for row in ended.rounds]
    assert phases == [["hello", "sketch"], [], [], ["hello"], []]


def test_a_silo_that_joins_trains_in_the_next_round(
    play: Callable[..., tuple[Run, Watch]],
) -> None:
    """It has no sketch: in the warm-up it trains what its own E-step says."""
    _, watch = play({0: [1, 2, 4], 1: [1, 2, 3, 4]}, 2, {"warmup-rounds": 2})
    trained = {
        message.metadata.dst_node_id: float(sums["weight"].sum())
        for (message, _), sums in zip(watch.of("train", 2), watch.sums("train", 2), strict=True)
    }
    assert trained.keys() == {1, 2, 3, 4}
    assert all(weight > 0 for weight in trained.values())


def test_a_warm_up_counts_without_those_who_left(play: Callable[..., tuple[Run, Watch]]) -> None:
    """Two clusters of two, c-min = 2: whose silo is gone is not known, so both rest."""
    there = {0: [1, 2, 3, 4], 1: [1, 2, 3]}
    _, watch = play(there, 2, {"c-min": 2, "warmup-rounds": 2, "sketch-size": 64})
    first, second = (watch.facts("train", r, "order")["open"] for r in (1, 2))
    counted = [sums["members"] for sums in watch.sums("query.cluster", 0)]
    assert counted
    assert any(first)
    assert sum(second) < sum(first)


@pytest.mark.parametrize(("there", "privacy"), [([1], "none"), ([], "none"), ([1, 2], "secagg")])
def test_too_few_within_reach_end_the_run_in_words(
    there: list[int], privacy: str, play: Callable[..., tuple[Run, Watch]]
) -> None:
    with pytest.raises(RunError, match=rf"round 1: {len(there)} silos are within reach"):
        play({0: [1, 2, 3, 4], 1: there}, 2, {"privacy": privacy, "c-min": 1})


def test_newcomers_of_one_name_cost_nobody_else(play: Callable[..., tuple[Run, Watch]]) -> None:
    there = {0: [1, 3, 4], 1: [1, 2, 3, 4, MOVED]}
    ended, _ = play(there, 2, {})
    assert [row["round"] for row in ended.rounds] == [0, 1, 2]
    assert [row["event"] for row in ended.events] == []


def test_rows_are_the_same_while_nobody_comes(
    play: Callable[..., tuple[Run, Watch]],
) -> None:
    still, _ = play({0: [1, 2, 3, 4]}, 1, {})
    moved, watch = play({0: [1, MOVED, 3, 4]}, 1, {})
    assert without_seconds(still) == without_seconds(moved)
    assert still.events == moved.events == []
    assert MOVED in {message.metadata.dst_node_id for message, _ in watch.of("train", 1)}
