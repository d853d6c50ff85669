"""Silos that come and go: who is within reach now, and who is new.

Before each assessment the server looks at the connected nodes. One that was not there the last
time is asked who it is and joins; one that has gone is not asked until it is back. A silo that
joins has missed the start: it begins with its own E-step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.server.consortium import Consortium, sample_size

Welcome = Callable[[Sequence[int], int], Consortium]
"""Asks nodes who they are, in a round, and returns those that take part."""
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
        Name of every silo that was ever met, by node id; it grows as silos join. Of a silo's
        nodes the one that counts comes last.

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

    def refresh(self, nodes: Iterable[int], round_: int) -> list[tuple[Change, str]]:
        """Take note of the nodes connected in a round; return who joined and who left.

        A silo with several nodes stands on the one that appeared last.
        """
        connected = set(nodes)
        appeared = sorted(connected - self._seen)
        stayed = [node for node in self.names if node in connected & self._seen]
        self._seen = connected
        for node in (*stayed, *(node for node in appeared if node in self.names)):
            self.names[node] = self.names.pop(node)
        if newcomers := [node for node in appeared if node not in self.names]:
            met = self._welcome(newcomers, round_).nodes
            self.names |= {node: name for name, node in met.items()}
        there = {name: node for node, name in self.names.items() if node in connected}
        before, self.present = self.present.nodes.keys(), Consortium(there)
        joined, left = sorted(there.keys() - before), sorted(before - there.keys())
        return [*(("join", silo) for silo in joined), *(("leave", silo) for silo in left)]


def require_asked(config: RunConfig, silos: int, round_: int) -> None:
    """Raise RunError where so few ``silos`` are within reach that no sum can have enough."""
    least = config.rounds.min_silos
    if config.output.privacy != "none":
        least = max(least, config.output.min_survivors)
    asked = sample_size(config.rounds.fraction_train, silos)
    if asked < least:
        raise RunError(
            f"round {round_}: {silos} silos are within reach, {asked} would be asked, and "
            f"{least} must answer (min-silos, min-survivors): start the others again"
        )
