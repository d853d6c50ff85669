"""What comes of an exchange: a void sum is asked for again, up to a limit; then the run ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedvemoe_app.config_groups.rounds import RoundSettings
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors
from fedvemoe_app.flower.server import vetting
from fedvemoe_app.flower.server.vetting import MOST_VOID, Vetting, accepted
from fedvemoe_app.flower.sums.one_reply import Tally

VOID = Tally(0, {"silo-01": "on fire"}, void="2 of 4 clients left, need 3")
FINAL = replace(VOID, final=True)
GOOD = Tally(3)


class World:
    """Stands where recorder and grid stand: answers with the tallies it was given, one by one."""

    def __init__(self, *tallies: Tally, retries: int = 2, noised: bool = False) -> None:
        self.tallies = list(tallies)
        self.taken: list[tuple[str, int, Tally, int]] = []
        self.asked = self.regrouped = 0
        rounds = RoundSettings(min_silos=3, void_retries=retries)
        self.vetting = Vetting(self, rounds, noised=noised)  # type: ignore[arg-type]

    def phase(self, phase: str, round_: int, silos: int) -> None:
        self.asked += 1

    def exchanged(self, phase: str, round_: int, tally: Tally, attempt: int) -> None:
        self.taken.append((phase, round_, tally, attempt))

    def send_and_receive(self, messages: Iterable[Message], timeout: float) -> list[Message]:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
        tally, content = self.tallies.pop(0), RecordDict()
        put_facts(content, "tally", asdict(tally))
        put_tensors(content, "sums", {} if tally.void else {"x": torch.ones(2).double()})
        return [Message(content, 1, "train")]

    def regroup(self) -> None:
        self.regrouped += 1

    def ask(self) -> dict[str, torch.Tensor] | None:
        asked = self.vetting.asked(self, "train", 2, list, self.regroup)  # type: ignore[arg-type]
        return accepted(asked)


def test_sums_of_enough_silos_are_accepted() -> None:
    world = World(GOOD)
    found = world.ask()
    assert found is not None
    assert found["x"].tolist() == [1, 1]
    assert world.taken == [("train", 2, GOOD, 1)]
    assert (world.asked, world.regrouped) == (1, 0)


@pytest.mark.parametrize("bad", [VOID, Tally(2)])
def test_a_void_sum_is_asked_for_again_once_silos_were_looked_for(bad: Tally) -> None:
    world = World(bad, bad, GOOD)
    assert world.ask() is not None
    assert [attempt for *_, attempt in world.taken] == [1, 2, 3]
    assert [bool(tally.void) for _, _, tally, _ in world.taken] == [True, True, False]
    assert (world.asked, world.regrouped) == (3, 2)


@pytest.mark.parametrize("retries", [0, 2])
def test_after_all_attempts_the_run_ends_with_the_reasons(retries: int) -> None:
    world = World(*[VOID] * 9, retries=retries)
    said = (
        rf"round 2, phase train: 2 of 4 clients left, need 3; asked for {retries + 1} times "
        rf"\(void-retries = {retries}\); nothing of it was applied\. silo-01: on fire"
    )
    with pytest.raises(RunError, match=said):
        world.ask()
    assert world.asked == retries + 1


def test_too_few_silos_are_void_by_the_setting_s_name() -> None:
    with pytest.raises(RunError, match=r"phase train: 2 silos answered, min-silos = 3"):
        World(*[Tally(2)] * 3).ask()


def test_what_silos_give_once_is_not_asked_for_again() -> None:
    world = World(FINAL, GOOD)
    assert world.ask() is None
    assert (world.asked, world.regrouped) == (1, 0)
    assert world.ask() is not None


def test_under_noise_nothing_is_asked_for_again() -> None:
    with pytest.raises(RunError, match=r"asked for 1 times"):
        World(Tally(2), GOOD, noised=True).ask()


def test_void_sums_that_stay_void_end_the_run_when_they_come_in_a_row() -> None:
    world = World(*[FINAL] * MOST_VOID, GOOD, *[FINAL] * (MOST_VOID + 1))
    assert [world.ask() for _ in range(MOST_VOID)] == [None] * MOST_VOID
    assert world.ask() is not None  # the row ends here
    assert [world.ask() for _ in range(MOST_VOID)] == [None] * MOST_VOID
    with pytest.raises(RunError, match=f"the {MOST_VOID + 1}th sum in a row that is void"):
        world.ask()


def test_too_few_are_looked_for_again_before_the_run_ends() -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) < 3:
            raise RunError("2 silos are within reach")

    World().vetting.patiently(look)
    assert len(looks) == 3
    with pytest.raises(RunError, match="within reach"):
        World(retries=1).vetting.patiently(lambda: looks.clear() or look())


def test_the_second_attempt_comes_at_once_and_later_ones_give_silos_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    waits = [pause(attempt) for attempt in (1, 2, 3, 4)]
    assert waits == [0.0, 0.0, 30.0, 60.0]


pause = vetting.pause  # as it is before the tests of this folder take the pause away
