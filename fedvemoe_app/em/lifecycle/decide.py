"""After an assessment: what the bank is worth, and what is to become of it.

One structural matter at a time, in this order: the verdict on a merged candidate, the verdict
on a trial, an expert that is due to go, two experts that are one, a birth. What is planned here
happens at the end of the next training round (``restructure``), when the bank moves anyway.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedvemoe_app.em.lifecycle.rules import Event, Rules
from fedvemoe_app.em.lifecycle.state import NONE, Lifecycle
from fedvemoe_app.em.lifecycle.sums import Unrest
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, spread

TOLERANCE = 1e-6
"""Nats per token by which a merge may lower the score: rounding of sums, and no more."""
APART = 4
"""Times the cool-down after which two experts that could not be merged may be tried again."""
LONGEST = 3
"""Times the rounds of a trial that it lasts at most, if the expert still gains worth."""


def decide(
    state: Lifecycle, bank: Bank, total: Assessment, unrest: Unrest, rules: Rules, *, silos: int
) -> tuple[Lifecycle, Bank, list[Event]]:
    """Return state, bank and events after the sums of an assessment over living experts.

    ``silos`` is the size of the federation, of which ``total.silos`` answered: worth is scaled
    to all of them. The bank differs only where a merged candidate is adopted.
    """
    scale = silos / float(total.silos)
    state = _seen(state, bank, total, unrest, rules, scale)
    if state.candidate:
        return _merge_verdict(state, bank, total, unrest, rules, scale)
    if state.trial != NONE:
        return _trial_verdict(state, bank, total, rules)
    if state.rest or state.round <= rules.warm_up:
        return state, bank, []
    due = _due(state, bank, rules)
    if due is not None:
        return _planned_end(state, bank, total, due, rules, scale), bank, []
    pair = _entangled(state, bank, unrest, rules)
    if pair is not None:
        apart = APART * rules.cool_down
        pair_plan = replace(state, plan="merge", slot=pair[0], other=pair[1], due=False)
        return replace(pair_plan, apart=apart), bank, []
    state, events = _planned_birth(state, bank, total, unrest, rules)
    return state, bank, events


def _seen(
    state: Lifecycle, bank: Bank, total: Assessment, unrest: Unrest, rules: Rules, scale: float
) -> Lifecycle:
    """Return the state one assessment later: ages, running worth, and rounds below the price."""
    living = bank.alive
    gain = _over_slots(total.gain * scale, bank)
    old = torch.where(state.worth.isnan(), gain, state.worth)
    worth = torch.where(living, (1 - rules.memory) * old + rules.memory * gain, torch.nan)
    error = _over_slots(total.gain_variance.clamp(min=0.0).sqrt() * scale, bank)
    price = (rules.certainty * error).clamp(min=rules.prune_worth)
    below = torch.where(living & (worth < price), state.below + 1, 0.0)
    edge = float(unrest.edge) * scale
    average = edge if state.age[state.trial] == 0 else rules.averaged(state.edge, edge)
    return replace(
        state,
        age=torch.where(living, state.age + 1, 0.0),
        worth=worth,
        price=price,
        below=below,
        edge=0.0 if state.trial == NONE else average,
        rising=state.trial != NONE and edge > average,
        rest=max(0, state.rest - 1),
        hold=max(0, state.hold - 1),
        apart=max(0, state.apart - 1),
        full=state.full and bool(living.all()),
    )


def _over_slots(values: Tensor, bank: Bank) -> Tensor:
    """Return values [m] of the living experts at their slots [K, ...]."""
    return spread(values.to(torch.float64), torch.tensor(bank.slots), len(bank.alive))


def _merge_verdict(
    state: Lifecycle, bank: Bank, total: Assessment, unrest: Unrest, rules: Rules, scale: float
) -> tuple[Lifecycle, Bank, list[Event]]:
    """Adopt the candidate if it costs no more than it may.

    That is what closing the expert would cost where that is due, else what a newborn expert
    must be worth: two experts that are worth less than that over their merger are one.
    """
    leaving, into = state.slot, state.other
    cost = float(total.score - unrest.merged) * scale
    gain = float(total.gain[bank.slots.index(leaving)]) * scale
    price = max(gain, 0.0) if state.due else rules.birth_worth
    if cost > price + TOLERANCE * float(total.silos) * scale:
        if state.due:
            return replace(state, candidate={}, plan="prune"), bank, []
        return replace(state, candidate={}, slot=NONE, other=NONE), bank, []
    why = f"experts {leaving} and {into} are one: that costs {cost:.3f}, of {price:.3f} allowed"
    event = Event("merge", (leaving, into), why, {"cost": cost, "price": price})
    target = torch.nn.functional.one_hot(torch.tensor(into), len(bank.alive))
    state = replace(state, adopting=True, plan="absorb", shares=target.to(torch.float64))
    return state, bank.adopt(into, state.candidate), [event]


def _trial_verdict(
    state: Lifecycle, bank: Bank, total: Assessment, rules: Rules
) -> tuple[Lifecycle, Bank, list[Event]]:
    """Accept the expert on trial, or plan its end and wait twice as long for the next birth.

    One that still gains worth is not judged too low: beside private experts, which had all the
    rounds before, a newborn needs more than a few.
    """
    slot = state.trial
    if state.age[slot] < rules.trial_rounds:
        return state, bank, []
    numbers = {"worth": state.edge, "price": rules.birth_worth}
    if state.edge >= rules.birth_worth:
        why = f"expert {slot} is worth {state.edge:.3f} after its trial: it pays its price"
        free = replace(state, trial=NONE, wait=rules.cool_down)
        return free, bank, [Event("accept", (slot,), why, numbers)]
    if state.rising and state.age[slot] < LONGEST * rules.trial_rounds:
        return state, bank, []
    shares = _over_slots(_displaced(total, bank, slot), bank)
    return replace(state, plan="close", slot=slot, shares=shares), bank, []


def _due(state: Lifecycle, bank: Bank, rules: Rules) -> int | None:
    """Return the slot of least worth among those that have been worth too little for too long."""
    if len(bank.slots) < 2:
        return None
    due = bank.alive & (state.below >= rules.patience) & (state.age > rules.trial_rounds)
    if not bool(due.any()):
        return None
    return int(torch.where(due, state.worth, torch.inf).argmin())


def _displaced(total: Assessment, bank: Bank, slot: int) -> Tensor:
    """Return the mass [m] that each living expert takes on when ``slot`` goes."""
    return total.displaced[bank.slots.index(slot)].to(torch.float64)


def _planned_end(
    state: Lifecycle, bank: Bank, total: Assessment, slot: int, rules: Rules, scale: float
) -> Lifecycle:
    """Plan a merge where one expert takes most of what ``slot`` leaves, else a prune.

    Where it leaves next to nothing it is dropped: for the others nothing changes then, but for
    those who would have moved to it, whose worth is learnt anew.
    """
    moved = _displaced(total, bank, slot)
    shares = _over_slots(moved, bank)
    left = float(moved.sum())
    if left * scale <= rules.unused:
        leaning = total.displaced[:, bank.slots.index(slot)] * scale > rules.unused
        state = state.forgetting(_over_slots(leaning, bank) > 0)
        return replace(state, plan="drop", slot=slot, shares=shares)
    if float(moved.max()) / left > rules.merge_share:
        return replace(
            state, plan="merge", slot=slot, other=int(shares.argmax()), due=True, shares=shares
        )
    return replace(state, plan="prune", slot=slot, shares=shares)


def _entangled(
    state: Lifecycle, bank: Bank, unrest: Unrest, rules: Rules
) -> tuple[int, int] | None:
    """Return the two slots, the lesser first, that the same silos use in the same proportion.

    Such experts share out the tokens of one domain between them. Each is then worth something
    beside the other, so that neither is ever due, and one alone would learn it as well. What
    nobody uses is like anything, and is none of them.
    """
    power = unrest.shared.diagonal().clamp(min=1e-12).sqrt()
    able = (state.age > rules.trial_rounds)[bank.slots] & (power**2 > rules.unused)
    likeness = unrest.shared / torch.outer(power, power)
    likeness = likeness * torch.outer(able, able).fill_diagonal_(False)
    if state.apart or float(likeness.max()) < rules.entangled:
        return None
    pair = divmod(int(likeness.argmax()), len(likeness))
    lesser, greater = sorted(pair, key=lambda column: float(power[column]))
    return bank.slots[lesser], bank.slots[greater]


def _planned_birth(
    state: Lifecycle, bank: Bank, total: Assessment, unrest: Unrest, rules: Rules
) -> tuple[Lifecycle, list[Event]]:
    """Plan a birth where most silos are dissatisfied, if they are a crowd."""
    unhappy = _over_slots(unrest.unhappy, bank)
    most = float(unhappy.max())
    if state.hold or most < rules.crowd:
        return state, []
    slot, side = divmod(int(unhappy.argmax()), 2)
    if bool(bank.alive.all()):
        why = f"{most:.0f} silos are dissatisfied with expert {slot}, and all slots are taken"
        event = Event("full", (slot,), why, {"dissatisfied": most, "slots": float(len(bank.alive))})
        return replace(state, full=True), [] if state.full else [event]
    others = float(_over_slots(total.contributors, bank)[slot]) - most
    alone = 0 < others < rules.c_min
    return replace(state, plan="birth", slot=slot, side=side, alone=alone), []
