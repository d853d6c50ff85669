"""Who is there, and who is asked to train: looked at each round, and before a sum is repeated."""

from __future__ import annotations

from collections.abc import Callable

from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.flower.server import orders
from fedvemoe_app.flower.server.membership import Membership, require_asked
from fedvemoe_app.flower.shelf import State

Left = Callable[[int], None]
"""Told how many silos went."""


class Rollcall:
    """The silos of a run as the server asks them.

    Parameters
    ----------
    config
        The run's settings.
    membership
        The silos that take part, as they come and go.
    changed
        Called with the round, "join" or "leave", and the silo's name.
    left
        Called with how many silos went.
    shared
        Whether silos share a bank.

    """

    def __init__(
        self,
        config: RunConfig,
        membership: Membership,
        changed: Callable[[int, str, str], None],
        left: Left,
        *,
        shared: bool,
    ) -> None:
        self._config = config
        self._membership = membership
        self._changed = changed
        self._left = left
        self._shared = shared
        self._told: list[str] = []

    def look(self, grid: Grid, round_: int) -> None:
        """Note who has come or gone since the last time; RunError where too few are left."""
        changes = self._membership.refresh(grid.get_node_ids(), round_)
        for change, silo in changes:
            self._changed(round_, change, silo)
        self._left([change for change, _ in changes].count("leave"))
        require_asked(self._config, len(self._membership.present.nodes), round_)

    def following(self, round_: int) -> list[str]:
        """Draw who trains in the coming ``round_``: they are told so beforehand."""
        self._told = self._drawn(round_)
        return self._told

    def trainers(self, round_: int) -> list[str]:
        """Return who trains: those who were told so, and are still there."""
        told = self._told or self._drawn(round_)
        return [silo for silo in told if silo in self._membership.present.nodes]

    def state(self) -> State:
        """Return who was told to train next."""
        return State({}, {"told": self._told})

    def restore(self, state: State) -> None:
        """Go on from there."""
        self._told = list(state.facts["told"])

    def _drawn(self, round_: int) -> list[str]:
        present = self._membership.present
        return orders.asked_to_train(self._config, present, round_, shared=self._shared)
