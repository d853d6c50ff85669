"""What comes of an exchange before it is used: too few silos, and too many void sums, end a run."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.one_reply import Tally
from fedvemoe_app.flower.vetting import MOST_VOID, Vetting
from fedvemoe_app.flower.wire import put_facts, put_tensors

VOID = Tally(0, void="2 of 4 clients left, need 3")


class Notes:
    """Stands where the recorder stands."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int, Tally]] = []

    def exchanged(self, phase: str, round_: int, tally: Tally) -> None:
        self.taken.append((phase, round_, tally))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def vetting(notes: Notes) -> Vetting:
    return Vetting(notes, 3)  # type: ignore[arg-type]


def reply(tally: Tally) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    content = RecordDict()
    put_facts(content, "tally", asdict(tally))
    put_tensors(content, "sums", {} if tally.void else {"x": torch.ones(2).double()})
    return Message(content, 1, "train")


def test_sums_of_enough_silos_are_accepted(vetting: Vetting, notes: Notes) -> None:
    found = vetting.accepted("train", 2, [reply(Tally(3))])
    assert found is not None
    assert found["x"].tolist() == [1, 1]
    assert notes.taken == [("train", 2, Tally(3))]


def test_too_few_silos_end_the_run_with_their_reasons(vetting: Vetting, notes: Notes) -> None:
    few = Tally(2, {"silo-01": "on fire"})
    reason = r"round 2, phase train: 2 silos answered, min-silos = 3\. silo-01: on fire"
    with pytest.raises(RunError, match=reason):
        vetting.accepted("train", 2, [reply(few)])
    assert notes.taken == [("train", 2, few)]


def test_void_sums_in_a_row_are_counted_over_all_phases(vetting: Vetting, notes: Notes) -> None:
    for number in range(MOST_VOID):
        phase = ("train", "assess")[number % 2]
        assert vetting.accepted(phase, number, [reply(VOID)]) is None
    assert vetting.accepted("train", 2, [reply(Tally(4))]) is not None  # the row ends here
    for _ in range(MOST_VOID):
        assert vetting.accepted("train", 3, [reply(VOID)]) is None
    with pytest.raises(RunError, match=f"{MOST_VOID + 1} sums in a row are void; the last: 2 of 4"):
        vetting.accepted("train", 4, [reply(VOID)])
    assert len(notes.taken) == 2 * MOST_VOID + 2
