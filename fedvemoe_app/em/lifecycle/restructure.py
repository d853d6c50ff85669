"""After a training round: the planned change is made to the bank, before it goes to the silos.

Mass is kept by every change: what a closed expert leaves goes where its silos would go, and a
newborn takes its share from all. State of a server's optimiser belongs to a slot: it starts anew
at a birth and at a merge.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fedvemoe_app.em.lifecycle.refactor import merged
from fedvemoe_app.em.lifecycle.rules import Event, Rules
from fedvemoe_app.em.lifecycle.state import NONE, Lifecycle
from fedvemoe_app.em.lifecycle.sums import Seeds, Wishes, sides
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import spread


def restructure(
    state: Lifecycle,
    held: Bank,
    moved: Bank,
    wishes: Wishes | None,
    seeds: Seeds | None,
    rules: Rules,
) -> tuple[Lifecycle, Bank, list[Event]]:
    """Return state, bank and events at the end of a training round.

    ``held`` is the bank that silos trained on, ``moved`` what their sums made of it; ``wishes``
    and ``seeds`` are sums over the living experts of ``held``, None where their sum is void.
    """
    state = _new_round(state, held, wishes)
    bank, events = moved, list[Event]()
    if state.plan == "birth":
        state, bank, events = _birth(state, held, moved, seeds, rules)
    elif state.plan in ("close", "prune", "drop", "absorb"):
        state, bank, events = _end(state, moved, rules)
    elif state.plan == "merge":
        pair = [state.slot, state.other]
        candidate, _ = merged([moved.expert(one) for one in pair], moved.prior[pair].tolist())
        state = replace(state, candidate=candidate)
    return replace(state, plan="none"), bank, events


def _new_round(state: Lifecycle, held: Bank, wishes: Wishes | None) -> Lifecycle:
    """Return the state of the next round, in which a candidate is adopted or gone."""
    axis, level = torch.zeros_like(state.axis), torch.zeros_like(state.level)
    if wishes is not None:
        slots, size = torch.tensor(held.slots), len(held.alive)
        axis, level = (spread(one, slots, size) for one in sides(wishes))
    state = replace(state, round=state.round + 1, axis=axis, level=level)
    if not state.candidate:
        return state
    done = replace(state, candidate={}, adopting=False)
    return done.renewed(state.other) if state.adopting else done


def _birth(
    state: Lifecycle, held: Bank, moved: Bank, seeds: Seeds | None, rules: Rules
) -> tuple[Lifecycle, Bank, list[Event]]:
    """Put the parent as held plus the seeds' mean change into a free slot, on trial."""
    parent = state.slot
    state = replace(state, slot=NONE, alone=False)
    if seeds is None or float(seeds.seeds) < rules.crowd:
        return replace(state, rest=rules.cool_down), moved, []
    child = int(torch.nonzero(~moved.alive)[0])
    expert = held.expert(parent)
    for name, change in seeds.seed.items():
        step = change.to(torch.float64) / float(seeds.seed_weight)
        expert[name] = (expert[name].to(torch.float64) + step).to(expert[name].dtype)
    state = replace(state.renewed(parent, child), trial=child, edge=0.0)
    silos = float(seeds.seeds)
    why = f"{silos:.0f} dissatisfied silos of expert {parent} seed expert {child}, on trial"
    event = Event("birth", (parent, child), why, {"silos": silos})
    return state, moved.born(child, expert), [event]


def _end(state: Lifecycle, moved: Bank, rules: Rules) -> tuple[Lifecycle, Bank, list[Event]]:
    """Close a slot: of an expert that failed its trial, is worth too little, or was merged."""
    slot, closing = state.slot, state.plan == "close"
    worth = state.edge if closing else float(state.worth[slot])
    price = rules.birth_worth if closing else float(state.price[slot])
    after = " after its trial" if closing else ""
    why = f"expert {slot} is worth {worth:.3f}{after}, less than {price:.3g}"
    event = Event("close" if closing else "prune", (slot,), why, {"worth": worth, "price": price})
    bank = moved.without(slot, state.shares)
    if closing:
        wait = 2 * state.wait
        state = replace(state, trial=NONE, edge=0.0, hold=wait, wait=wait)
    if state.plan == "drop":  # nobody has to settle anew
        return replace(state, slot=NONE), bank, [event]
    absorbed = state.plan == "absorb"  # its merge was the event
    state = replace(state.renewed(slot), slot=NONE, other=NONE, rest=rules.cool_down)
    return state, bank, [] if absorbed else [event]
