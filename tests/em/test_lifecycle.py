"""The server's moves: what sums it acts on, in which order, and that mass is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.lifecycle.decide import decide
from fedvemoe_app.em.lifecycle.restructure import restructure
from fedvemoe_app.em.lifecycle.rules import Event, Rules
from fedvemoe_app.em.lifecycle.state import NONE, Lifecycle
from fedvemoe_app.em.lifecycle.sums import Seeds, Unrest, Wishes, sides
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment

RULES = Rules(sketch_size=3)
SILOS = 12


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bank(*living: int, size: int = 5) -> Bank:
    rng = seeds.stream(0, "experts")
    experts = {
        "x.A": torch.from_numpy(rng.standard_normal((size, 2, 4))),
        "x.B": torch.from_numpy(rng.standard_normal((size, 3, 2))),
    }
    alive = torch.zeros(size, dtype=torch.bool)
    alive[list(living)] = True
    prior = torch.where(alive, torch.arange(1.0, size + 1).double(), 0.0)
    return Bank(experts, alive, prior / prior.sum())


def assessed(
    *gain: float,
    displaced: Tensor | None = None,
    silos: int = SILOS,
    error: Sequence[float] | None = None,
) -> Assessment:
    m = len(gain)
    away = displaced if displaced is not None else torch.ones(m, m).double() - torch.eye(m)
    one, many = tensor(1.0)[0], torch.full((m,), 6.0).double()
    count = tensor(float(silos))[0]
    certain = torch.zeros(m, dtype=torch.float64) if error is None else tensor(*error) ** 2
    return Assessment(count, one, -2.0 * count, many, many, tensor(*gain), certain, away)


def unrest(
    m: int, *, edge: float = 0.0, merged: float = 0.0, shared: Tensor | None = None, **at: int
) -> Unrest:
    unhappy = torch.zeros(m, 2, dtype=torch.float64)
    for place, count in at.items():
        unhappy[int(place[1]), int(place[2])] = count
    apart = torch.eye(m, dtype=torch.float64) if shared is None else shared
    return Unrest(unhappy, apart, tensor(edge)[0], tensor(merged * SILOS)[0])


def seeded(number: int, weight: float = 4.0) -> Seeds:
    change = {"x.B": torch.full((1, 3, 2), 2.0).double()}
    return Seeds(tensor(number)[0], tensor(weight)[0], change)


class Server:
    """Plays rounds of given sums."""

    def __init__(self, start: Bank, rules: Rules = RULES) -> None:
        self.bank, self.rules = start, rules
        self.state = Lifecycle.start(len(start.alive), rules)
        self.events: list[Event] = []

    def train(self, seeds_: Seeds | None = None, moved: Bank | None = None) -> None:
        self.state = Lifecycle.from_arrays(self.state.arrays())  # a checkpoint in every round
        self.state, self.bank, events = restructure(
            self.state, self.bank, moved or self.bank, None, seeds_, self.rules
        )
        self.events += events
        assert float(self.bank.prior.sum()) == pytest.approx(1.0, abs=1e-12)
        assert not self.bank.prior[~self.bank.alive].any()

    def assess(self, total: Assessment, unrest_: Unrest | None = None) -> None:
        self.state = Lifecycle.from_arrays(self.state.arrays())
        calm = unrest_ or unrest(len(total.gain))
        self.state, self.bank, events = decide(
            self.state, self.bank, total, calm, self.rules, silos=SILOS
        )
        self.events += events

    def rounds(self, number: int, *gain: float, **others: object) -> Server:
        for _ in range(number):
            self.train()
            self.assess(assessed(*gain), **others)
        return self

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_an_expert_worth_too_little_for_long_enough_goes() -> None:
    server = Server(bank(0, 2, 3)).rounds(4, 1.0, 0.01, 1.0)
    assert server.bank.slots == [0, 2, 3]
    assert server.state.plan == "none"
    server.rounds(1, 1.0, 0.01, 1.0)
    assert server.bank.slots == [0, 2, 3]
    assert server.state.plan == "prune"
    server.train()
    assert server.bank.slots == [0, 3]
    (event,) = server.events
    assert (event.kind, event.slots) == ("prune", (2,))
    assert event.numbers["worth"] == pytest.approx(0.01)
    assert "0.010" in event.why


@pytest.mark.parametrize(("error", "goes"), [(0.02, False), (0.03, True)])
def test_what_an_expert_is_worth_must_be_more_than_its_error(error: float, goes: bool) -> None:
    """One that smooths another's answers is worth a little, by chance or not: no reason to stay."""
    server = Server(bank(0, 2, 3))
    for _ in range(5):
        server.train()
        server.assess(assessed(1.0, 0.05, 1.0, error=(0.1, error, 0.1)))
    server.train()
    assert server.bank.slots == ([0, 3] if goes else [0, 2, 3])
    assert [event.numbers["price"] for event in server.events] == [pytest.approx(0.06)] * goes


def test_worth_and_error_are_scaled_to_all_silos() -> None:
    """Half the silos answer: they must not make an expert look worth half, nor surer of it."""
    server = Server(bank(0, 2, 3))
    server.train()
    server.assess(assessed(1.0, 0.05, 1.0, error=(0.1, 0.03, 0.1), silos=SILOS // 2))
    assert float(server.state.worth[2]) == pytest.approx(0.1)
    assert float(server.state.price[2]) == pytest.approx(0.12)


def test_the_mass_of_a_pruned_expert_goes_where_its_silos_go() -> None:
    server = Server(bank(0, 2, 3))
    before = server.bank.prior
    away = torch.tensor([[0, 1, 1], [0.25, 0, 0.25], [1, 1, 0]]).double()
    for _ in range(5):
        server.train()
        server.assess(assessed(1.0, 0.01, 1.0, displaced=away))
    server.train()
    assert server.bank.prior.tolist() == pytest.approx(
        [float(before[0] + before[2] / 2), 0, 0, float(before[3] + before[2] / 2), 0]
    )


@pytest.mark.parametrize("gains", [(1.0, 0.03, 1.0), (0.05, 0.05, 0.05)])
def test_an_expert_that_pays_its_price_stays(gains: tuple[float, ...]) -> None:
    assert Server(bank(0, 2, 3)).rounds(12, *gains).events == []


def test_the_last_expert_stays_whatever_it_is_worth() -> None:
    assert Server(bank(4)).rounds(12, 0.0).events == []


def test_the_smallest_goes_first_and_then_there_is_a_pause() -> None:
    server = Server(bank(0, 1, 2, 3)).rounds(5, 1.0, 0.01, 0.0, 1.0)
    server.train()
    assert [event.slots for event in server.events] == [(2,)]
    for _ in range(3):
        server.assess(assessed(1.0, 0.01, 1.0))
        assert len(server.events) == 1
        server.train()
    assert [event.slots for event in server.events] == [(2,), (1,)]


def idle(*, of: int, at: tuple[int, ...]) -> Tensor:
    """Return displaced mass [of, of] where the experts ``at`` have none to leave."""
    displaced = torch.ones(of, of).double() - torch.eye(of)
    displaced[list(at)] = 0.01
    return displaced.fill_diagonal_(0.0)


def test_experts_that_nobody_uses_go_one_after_the_other_without_a_pause() -> None:
    server = Server(bank(0, 1, 2, 3))
    for _ in range(5):
        server.train()
        server.assess(assessed(1.0, 0.0, 0.0, 1.0, displaced=idle(of=4, at=(1, 2))))
    server.train()
    server.assess(assessed(1.0, 0.0, 1.0, displaced=idle(of=3, at=(1,))))
    server.train()
    assert [event.slots for event in server.events] == [(1,), (2,)]
    assert server.kinds == ["prune", "prune"]
    assert not server.state.candidate
    assert server.state.rest == 0


def test_mass_that_absent_silos_would_leave_counts_as_well() -> None:
    server = Server(bank(0, 1))
    for _ in range(5):
        server.train()
        displaced = torch.tensor([[0.0, 1.0], [0.06, 0.0]])
        server.assess(assessed(1.0, 0.0, displaced=displaced, silos=SILOS // 2))
    assert server.state.plan == "merge"


def test_who_could_lean_on_an_unused_expert_is_learnt_anew_when_it_goes() -> None:
    """It looked worthless beside its stand-in, and is not."""
    server = Server(bank(0, 1, 2))
    for _ in range(5):
        server.train()
        server.assess(assessed(0.01, 0.0, 1.0, displaced=idle(of=3, at=(1,))))
    server.train()
    assert [event.slots for event in server.events] == [(1,)]
    server.assess(assessed(0.03, 1.0))
    server.rounds(11, 0.03, 1.0)
    assert server.kinds == ["prune"]


def test_worth_is_learnt_anew_after_a_change() -> None:
    """A twin was worth nothing beside the other; alone it pays, if not by much."""
    server = Server(bank(0, 1, 2)).rounds(5, 1.0, 0.0, 0.0)
    server.train()
    assert server.bank.slots == [0, 2]
    server.assess(assessed(1.0, 0.025))
    server.rounds(11, 1.0, 0.025)
    assert server.kinds == ["prune"]


def test_absent_silos_are_made_up_for() -> None:
    """A third of the silos, worth a third: the same expert. Goes red without the scale."""
    server = Server(bank(0, 2))
    for _ in range(12):
        server.train()
        server.assess(assessed(0.01, 0.01, silos=4))
    assert server.events == []


def birth(rules: Rules = RULES) -> Server:
    server = Server(bank(0, 2), rules).rounds(3, 1.0, 1.0)
    server.train()
    server.assess(assessed(1.0, 1.0), unrest(2, p11=3, p10=2))
    return server


def test_the_side_with_most_dissatisfied_silos_seeds_a_free_slot() -> None:
    """Goes red when the child starts from the moved parent, or from the sum instead of the mean."""
    server = birth()
    assert (server.state.call().parent, server.state.call().side) == (2, 1)
    held = server.bank
    moved = replace(held, experts={n: x + 9.0 for n, x in held.experts.items()})
    server.train(seeded(3), moved)
    assert server.bank.slots == [0, 1, 2]
    assert torch.allclose(server.bank.experts["x.B"][1], held.experts["x.B"][2] + 2.0 / 4.0)
    assert torch.equal(server.bank.experts["x.A"][1], held.experts["x.A"][2])
    assert torch.equal(server.bank.experts["x.B"][2], moved.experts["x.B"][2])
    assert float(server.bank.prior[1]) == pytest.approx(1 / 3)
    assert float(server.bank.prior[0] / server.bank.prior[2]) == pytest.approx(1 / 3)
    notice = server.state.notice(server.bank)
    assert (notice.trial, notice.slots, notice.since) == (1, (0, 1, 2), (0, 5, 5))
    assert server.kinds == ["birth"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_birth_needs_a_crowd(count: int) -> None:
    rules = replace(RULES, c_min=3)
    server = Server(bank(0, 2), rules).rounds(3, 1.0, 1.0)
    server.train()
    server.assess(assessed(1.0, 1.0), unrest(2, p11=count))
    assert server.state.call().parent is None
    server = birth(rules)
    server.train(seeded(count))
    assert server.bank.slots == [0, 2]
    assert server.events == []


def test_no_birth_before_the_warm_up_is_over() -> None:
    server = Server(bank(0, 2))
    for _ in range(3):
        server.train()
        server.assess(assessed(1.0, 1.0), unrest(2, p11=3))
        assert server.state.call().parent is None


def test_a_parent_rests_where_those_who_do_not_seed_are_no_crowd() -> None:
    """Six contribute; four seed under c-min 3: the sum without them would tell of two."""
    crowd = torch.tensor([True, True])
    for count, open_ in ((3, [True, True]), (4, [True, False]), (6, [True, True])):
        server = Server(bank(0, 2), replace(RULES, c_min=3)).rounds(3, 1.0, 1.0)
        server.train()
        server.assess(assessed(1.0, 1.0), unrest(2, p10=count))
        assert server.state.open(crowd, server.bank).tolist() == open_


def trial(*edges: float) -> Server:
    server = birth()
    server.train(seeded(3))
    for edge in edges:
        server.assess(assessed(1.0, 0.0, 1.0), unrest(3, edge=edge, p10=5))
        server.train()
    return server


def test_a_trial_ends_well_for_an_expert_worth_its_price() -> None:
    server = trial(0.0, 0.1, 0.2, 0.2)
    assert server.kinds == ["birth", "accept"]
    assert server.state.trial == NONE
    assert server.bank.slots == [0, 1, 2]


def test_a_trial_ends_in_a_close_for_another_and_the_wait_doubles() -> None:
    server = trial(0.04, 0.04, 0.03)
    assert server.kinds == ["birth"]
    server.assess(assessed(1.0, 0.0, 1.0), unrest(3, edge=0.03))
    server.train()
    assert server.kinds == ["birth", "close"]
    assert server.bank.slots == [0, 2]
    waited = 0
    while server.state.call().parent is None:
        server.assess(assessed(1.0, 1.0), unrest(2, p10=5))
        waited += 1
        if server.state.call().parent is None:
            server.train()
    assert waited == 2 * RULES.cool_down
    assert server.state.wait == 2 * RULES.cool_down


def test_a_success_ends_the_long_wait() -> None:
    server = birth()
    server.state = replace(server.state, wait=48)
    server.train(seeded(3))
    for _ in range(4):
        server.assess(assessed(1.0, 1.0, 1.0), unrest(3, edge=0.2))
    assert server.kinds == ["birth", "accept"]
    assert server.state.wait == RULES.cool_down


def test_an_expert_that_still_gains_is_not_judged_yet_but_not_for_ever() -> None:
    rising = [0.001 * n for n in range(30)]
    assert trial(*rising[:8]).kinds == ["birth"]
    assert trial(*rising[:12]).kinds == ["birth", "close"]


def test_out_of_slots_is_said_once() -> None:
    server = Server(bank(0, 1, 2, 3, 4)).rounds(3, *[1.0] * 5)
    for _ in range(5):
        server.train()
        server.assess(assessed(*[1.0] * 5), unrest(5, p30=4))
    (event,) = server.events
    assert (event.kind, event.slots) == ("full", (3,))


AWAY = torch.tensor([[0, 0.1, 0.9], [1, 0, 1], [1, 1, 0]]).double()


def merging() -> Server:
    server = Server(bank(0, 2, 3))
    for _ in range(5):
        server.train()
        server.assess(assessed(0.0, 1.0, 1.0, displaced=AWAY))
    server.train()
    return server


def test_an_expert_whose_mass_goes_to_one_other_is_tried_as_a_merge() -> None:
    server = merging()
    assert server.bank.slots == [0, 2, 3]
    assert server.events == []
    notice = server.state.notice(server.bank)
    assert (notice.leaving, notice.into) == (0, 2)
    product = notice.candidate["x.B"] @ notice.candidate["x.A"]
    assert product.shape == (1, 3, 4)


def test_a_merge_that_costs_no_more_than_a_prune_is_adopted() -> None:
    """The prune would cost 0.012 nats, and so does the merge."""
    server = merging()
    before, candidate = server.bank.prior, server.state.candidate
    server.assess(assessed(0.012, 1.0, 1.0), unrest(3, merged=-2.001))
    assert server.kinds == ["merge"]
    assert server.events[0].slots == (0, 3)
    assert server.state.call().adopt
    assert torch.equal(server.bank.experts["x.A"][3], candidate["x.A"][0])
    server.train()
    assert server.kinds == ["merge"]
    assert server.bank.slots == [2, 3]
    assert float(server.bank.prior[3]) == pytest.approx(float(before[0] + before[3]))
    assert not server.state.call().adopt
    assert server.state.notice(server.bank).candidate == {}
    assert server.state.notice(server.bank).since == (0, 7)


def test_a_merge_that_costs_more_than_a_prune_is_a_prune() -> None:
    server = merging()
    before = server.bank.experts["x.A"][3].clone()
    server.assess(assessed(0.011, 1.0, 1.0), unrest(3, merged=-2.001))
    assert not server.state.call().adopt
    server.train()
    assert server.kinds == ["prune"]
    assert server.events[0].slots == (0,)
    assert server.bank.slots == [2, 3]
    assert torch.equal(server.bank.experts["x.A"][3], before)
    assert server.state.notice(server.bank).candidate == {}


def test_a_merge_whose_assessment_is_void_is_tried_again() -> None:
    server = merging()
    server.train()
    assert server.events == []
    assert not server.state.call().adopt
    assert server.state.notice(server.bank).candidate == {}
    server.assess(assessed(0.0, 1.0, 1.0, displaced=AWAY))
    assert server.state.plan == "merge"


TOGETHER = torch.tensor([[4.0, 2.0, 0.1], [2.0, 1.1, 0.1], [0.1, 0.1, 9.0]]).double()


def together(shared: Tensor, merged_score: float) -> Server:
    server = Server(bank(0, 2, 3))
    for _ in range(5):
        server.train()
        server.assess(assessed(1.0, 0.5, 1.0), unrest(3, shared=shared))
    server.train()
    if server.state.candidate:
        server.assess(assessed(1.0, 0.5, 1.0), unrest(3, shared=shared, merged=merged_score))
        server.train()
    return server


def test_two_experts_that_the_same_silos_use_alike_become_one_if_that_costs_little() -> None:
    """Each is worth a lot beside the other. Goes red when worth alone decides."""
    server = together(TOGETHER, -2.004)
    assert server.kinds == ["merge"]
    assert server.events[0].slots == (2, 0)
    assert server.events[0].numbers["cost"] == pytest.approx(0.048)
    assert server.bank.slots == [0, 3]


def test_two_experts_that_need_each_other_stay_and_are_left_in_peace() -> None:
    server = together(TOGETHER, -2.005)
    assert server.events == []
    assert server.bank.slots == [0, 2, 3]
    for _ in range(9):
        assert not server.state.candidate
        server.assess(assessed(1.0, 0.5, 1.0), unrest(3, shared=TOGETHER))
        server.train()


def test_experts_of_different_silos_are_never_tried_as_one() -> None:
    apart = torch.tensor([[4.0, 1.0, 0.1], [1.0, 1.1, 0.1], [0.1, 0.1, 9.0]]).double()
    assert not together(apart, -2.0).events


def test_an_expert_that_nobody_uses_is_not_tried_as_one_with_another() -> None:
    """Its silos have left: what little others make of it is in proportion to anything."""
    left = torch.tensor([[3.0, 0.45, 0.0], [0.45, 0.07, 0.0], [0.0, 0.0, 3.0]]).double()
    assert not together(left, -2.0).events


def test_the_axis_is_the_projection_in_which_wishes_differ_most() -> None:
    drawn = torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0], [0.5, 0.8, 0.1]]).double()
    total = Wishes(
        tensor(3.0, 0.0),
        torch.stack([drawn.sum(dim=0), tensor(0.0, 0.0, 0.0)]),
        torch.stack([(drawn**2).sum(dim=0), tensor(0.0, 0.0, 0.0)]),
    )
    axis, level = sides(total)
    assert axis.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert level.tolist() == pytest.approx([0.8 / 3, 0.0])


def test_relabelling_slots_relabels_what_is_decided() -> None:
    order = torch.tensor([3, 0, 4, 2, 1])

    def play(permute: bool) -> Server:
        start = bank(0, 1, 2, 3, 4)
        if permute:
            experts = {n: x[order] for n, x in start.experts.items()}
            start = Bank(experts, start.alive[order], start.prior[order])
        server = Server(start)
        gain = tensor(1.0, 0.01, 0.4, 0.0, 0.7)
        away = torch.from_numpy(seeds.stream(0, "displaced").random((5, 5)))
        if permute:
            gain, away = gain[order], away[order][:, order]
        for _ in range(5):
            server.train()
            server.assess(assessed(*gain.tolist(), displaced=away))
        server.train()
        return server

    one, other = play(False), play(True)
    assert torch.equal(one.bank.alive[order], other.bank.alive)
    assert torch.allclose(one.bank.prior[order], other.bank.prior, atol=1e-12)
    assert torch.allclose(one.state.since[order], other.state.since)
