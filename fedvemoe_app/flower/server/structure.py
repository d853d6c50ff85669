"""The bank's lifecycle on the server: what goes out with an exchange, and what its sums decide.

``em.lifecycle`` decides from sums alone; here its state lies between the exchanges of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import RecordDict
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.lifecycle.decide import decide
from fedvemoe_app.em.lifecycle.restructure import restructure
from fedvemoe_app.em.lifecycle.rules import Event, Rules
from fedvemoe_app.em.lifecycle.state import Lifecycle
from fedvemoe_app.em.lifecycle.sums import Seeds, Unrest, Wishes
from fedvemoe_app.em.shapes import Shapes, seeds_shapes, unrest_shapes, wishes_shapes
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment
from fedvemoe_app.flower.messages.notices import put_call, put_notice
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.strategies.method import Method
from fedvemoe_app.terms import rules

Happened = Callable[[int, Event], None]
"""Told the round and every event in it."""


def structure_of(
    config: RunConfig, method: Method, slots: int, happened: Happened
) -> Structure | None:
    """Return the lifecycle of a bank of ``slots`` slots, if the run has one and it can grow."""
    if not (method.lifecycle and config.lifecycle.lifecycle) or slots < 2:
        return None
    return Structure(rules(config), slots, happened)


class Structure:
    """Births, prunes and merges of one run.

    Parameters
    ----------
    rules
        The thresholds.
    slots
        Slots of the bank.
    happened
        Called with the round and every event in it.

    """

    def __init__(self, rules: Rules, slots: int, happened: Happened) -> None:
        self.lifecycle = Lifecycle.start(slots, rules)
        self._rules = rules
        self._happened = happened

    def assess(self, content: RecordDict, bank: Bank) -> Shapes:
        """Add what goes with the bank, and return the shapes of what is summed for it."""
        put_notice(content, self.lifecycle.notice(bank))
        return unrest_shapes(len(bank.slots))

    def train(self, content: RecordDict, trained: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Add what goes with an order to train, and return the shapes of what is summed for it.

        ``trained`` are the shapes [K, ...] of the tensors that move, K the living experts.
        """
        call = self.lifecycle.call()
        put_call(content, call)
        experts = next(iter(trained.values()))[0]
        wishes = wishes_shapes(experts, self._rules.sketch_size)
        return wishes | (seeds_shapes(trained) if call.parent is not None else {})

    def open(self, crowded: Tensor, bank: Bank) -> Tensor:
        """Return which living experts [m] are summed, of those with a crowd [m] of silos."""
        return self.lifecycle.open(crowded, bank)

    def assessed(self, bank: Bank, sums: Mapping[str, Tensor], silos: int) -> Bank:
        """Return the bank after the sums of an assessment; ``silos`` is all of them."""
        self.lifecycle, bank, events = decide(
            self.lifecycle,
            bank,
            Assessment.from_arrays(sums),
            Unrest.from_arrays(sums),
            self._rules,
            silos=silos,
        )
        self._tell(events)
        return bank

    def trained(self, held: Bank, moved: Bank, sums: Mapping[str, Tensor] | None) -> Bank:
        """Return the bank after a training round, planned changes made; None for a void sum.

        ``held`` is what silos trained on, ``moved`` what their sums made of it.
        """
        seeded = sums is not None and "seeds" in sums
        self.lifecycle, bank, events = restructure(
            self.lifecycle,
            held,
            moved,
            Wishes.from_arrays(sums) if sums is not None else None,
            Seeds.from_arrays(sums) if sums is not None and seeded else None,
            self._rules,
        )
        self._tell(events)
        return bank

    def state(self) -> State:
        """Return the lifecycle's state."""
        return State(self.lifecycle.arrays(), {})

    def restore(self, state: State) -> None:
        """Go on from a state of the lifecycle."""
        self.lifecycle = Lifecycle.from_arrays(state.arrays)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self._happened(self.lifecycle.round, event)
