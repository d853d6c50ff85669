"""Who is within reach: newcomers are met once, a silo may come back on another node.

Removed by hand, the order of a silo's nodes turned a test here red.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.server.consortium import Consortium
from fedvemoe_app.flower.server.membership import Membership, require_asked

STRANGER = 13


class Door:
    """Welcomes every node by the name in ``names``, and notes whom it asked in which round."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def __call__(self, nodes: Sequence[int], round_: int) -> Consortium:
        self.asked.append((round_, tuple(nodes)))
        return Consortium({self.names[node]: node for node in nodes if node in self.names})


@pytest.fixture
def door() -> Door:
    return Door({3: "c", 4: "d", 7: "a"})


@pytest.fixture
def membership(door: Door) -> Membership:
    return Membership(Consortium({"a": 1, "b": 2}), [1, 2], door)


def test_nothing_happens_while_the_same_nodes_are_there(membership: Membership, door: Door) -> None:
    assert membership.refresh([2, 1], 1) == []
    assert door.asked == []
    assert membership.present.nodes == {"a": 1, "b": 2}


def test_newcomers_are_asked_in_their_round_and_those_gone_are_not_asked(
    membership: Membership, door: Door
) -> None:
    assert membership.refresh([1, 4, 3], 5) == [("join", "c"), ("join", "d"), ("leave", "b")]
    assert door.asked == [(5, (3, 4))]
    assert membership.present.names == ["a", "c", "d"]


def test_who_comes_back_on_its_node_joins_without_being_asked(
    membership: Membership, door: Door
) -> None:
    membership.refresh([1], 1)
    assert membership.refresh([1, 2], 2) == [("join", "b")]
    assert door.asked == []


def test_who_was_refused_is_asked_again_only_when_it_comes_back(
    membership: Membership, door: Door
) -> None:
    for round_, nodes in enumerate([[1, 2, STRANGER], [1, 2, STRANGER], [1, 2], [1, 2, STRANGER]]):
        assert membership.refresh(nodes, round_) == []
    assert door.asked == [(0, (STRANGER,)), (3, (STRANGER,))]


def test_a_silo_stands_on_the_node_that_appeared_last(membership: Membership) -> None:
    """Neither a join nor a leave: whoever asks by node id finds the same one in ``names``."""
    names = membership.names
    for round_, (nodes, node) in enumerate(
        [([1, 2, 7], 7), ([1, 2], 1), ([1, 2, 7], 7), ([2, 7], 7), ([1, 2, 7], 1), ([2, 7], 7)]
    ):
        assert membership.refresh(nodes, round_) == []
        assert membership.present.nodes == {"a": node, "b": 2}
        assert {name: n for n, name in names.items()}["a"] == node
    assert names is membership.names


def test_a_silo_that_moves_while_it_is_away_comes_back(membership: Membership) -> None:
    assert membership.refresh([2], 1) == [("leave", "a")]
    assert membership.refresh([2, 7], 2) == [("join", "a")]
    assert membership.present.nodes == {"a": 7, "b": 2}


@pytest.mark.parametrize(
    ("settings", "silos", "enough"),
    [
        ({"privacy": "none"}, 2, True),
        ({"privacy": "none"}, 1, False),
        ({"privacy": "none", "fraction-train": 0.5}, 3, True),
        ({"privacy": "none", "fraction-train": 0.5}, 2, False),
        ({"privacy": "secagg"}, 3, True),
        ({"privacy": "secagg"}, 2, False),
        ({"privacy": "sim", "min-survivors": 5}, 4, False),
        ({"privacy": "none"}, 0, False),
    ],
)
def test_a_round_needs_silos_to_ask(
    settings: dict[str, str | float], silos: int, enough: bool
) -> None:
    config = RunConfig.from_flat(settings)
    if enough:
        require_asked(config, silos, 4)
    else:
        with pytest.raises(RunError, match=rf"round 4: {silos} silos are within reach"):
            require_asked(config, silos, 4)
