"""Silos that come and go: who is within reach now, and who is new.

Before each assessment the server looks at the connected nodes. One that was not there the last
time is asked who it is and joins; one that has gone is not asked until it is back. A silo that
joins has missed the start: it begins with its own E-step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from fedvemoe_app.flower.consortium import Consortium

Welcome = Callable[[Sequence[int]], Consortium]
"""Asks nodes who they are and returns those that take part."""
Change = Literal["join", "leave"]


class Membership:
    """Keeps account of the silos of a run.

    Parameters
    ----------
    consortium
        The silos that were met at the start.
    nodes
        All nodes that were asked then.
    welcome
        Meets newcomers.

    Attributes
    ----------
    present
        The silos within reach.
    names
        Name of every silo that was ever met, by node id; it grows as silos join.

    """

    def __init__(
        self,
        consortium: Consortium,
        nodes: Iterable[int],
        welcome: Welcome,
    ) -> None:
        self.present = consortium
        self.names = {node: name for name, node in consortium.nodes.items()}
        self._seen = set(nodes)
        self._welcome = welcome

    def refresh(self, nodes: Iterable[int]) -> list[tuple[Change, str]]:
        """Take note of the connected ``nodes``; return who joined and who left."""
        connected = set(nodes)
        newcomers = sorted(connected - self._seen - self.names.keys())
        self._seen = connected
        if newcomers:
            met = self._welcome(newcomers).nodes
            self.names |= {node: name for name, node in met.items()}
        there = {name: node for node, name in self.names.items() if node in connected}
        before, self.present = self.present.nodes.keys(), Consortium(there)
        joined, left = sorted(there.keys() - before), sorted(before - there.keys())
        return [*(("join", silo) for silo in joined), *(("leave", silo) for silo in left)]
