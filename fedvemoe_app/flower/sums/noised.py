"""Noised sums, the server's end: a grid around the grid that sums.

It tells silos which release of the run a message asks for, how many silos share the noise and on
which grid; it counts what the sum spends, and makes what comes back fit for a step. The strategy
inside knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flwr.app import Message
from torch import Tensor

from fedvemoe_app.config_groups.dp import DpSettings
from fedvemoe_app.dp.guards import guarded
from fedvemoe_app.dp.mechanism import Mechanism
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_facts, put_facts
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.flower.sums.epsilon import Spending
from fedvemoe_app.flower.sums.one_reply import OneReplyGrid, Tally
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.spec import least_threshold


class NoisedGrid(OneReplyGrid):
    """Asks for clipped and noised sums, and keeps the account.

    Parameters
    ----------
    inner
        The grid that sums.
    names
        Silo name by node id.
    settings
        Of the run's differential privacy.
    min_survivors
        Silos that a sum must hold.
    bits
        Of a word of a secure sum, which the grid of vectors must fit.

    """

    def __init__(
        self,
        inner: OneReplyGrid,
        names: Mapping[int, str],
        settings: DpSettings,
        min_survivors: int,
        bits: int = 32,
    ) -> None:
        super().__init__(inner, names)
        self._inner = inner
        self._settings = settings
        self._min_survivors = min_survivors
        self._bits = bits
        self._spending = Spending(settings, len(names))

    def sum(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], Tally]:
        """Exchange these messages for noised sums; void where too few silos shared the noise."""
        least = self._least(len(sent))
        for message in sent.values():
            self._announce(message, len(sent), least)
        order = get_facts(next(iter(sent.values())).content, "order")
        sums, tally = self._inner.sum(sent, timeout)
        # Counted even where it is void; and each release leaves a silo once.
        tally = replace(tally, epsilon=self._spending.spend(), final=bool(tally.void))
        if sums and tally.answered < least:
            few = f"{tally.answered} of {len(sent)} silos left, their noise needs {least}"
            return {}, replace(tally, answered=0, void=few, final=True)
        return guarded(sums, order.get("open")), tally

    def state(self) -> State:
        """Return how many sums the account holds."""
        return State({}, {"spent": self._spending.sums})

    def restore(self, state: State) -> None:
        """Go on with an account of so many sums."""
        self.spend(int(state.facts["spent"]))

    def spend(self, sums: int) -> None:
        """Count sums that were made before this process, or may have been."""
        for _ in range(sums):
            self._spending.spend()

    def _least(self, asked: int) -> int:
        """Return how many silos share the noise of a sum: as many as it must hold."""
        if self._settings.dp == "local":
            return 1
        return min(asked, max(least_threshold(asked), self._min_survivors))

    def _announce(self, message: Message, asked: int, least: int) -> None:
        round_ = get_facts(message.content, "order")["round"]
        number = release_number(message.metadata.message_type, round_)
        put_facts(message.content, "dp", {"number": number, "silos": least})
        template = Template.get(message.content)
        if template.rms:
            most = Ring(self._bits, asked).qmax
            step = mechanism_of(self._settings, least).vector_step(most)
            replace(template, step=step).put(message.content)


def release_number(kind: str, round_: int) -> int:
    """Return the number of a release in its run: 0, then 2r - 1 and 2r in round r.

    Raises
    ------
    RunError
        For a kind of message whose sums nobody has accounted for.
    """
    numbers = {"train": 2 * round_ - 1, "evaluate": 2 * round_}
    if kind not in numbers:
        raise RunError(f"the sums of {kind} are in no account: they cannot be had with dp on")
    return numbers[kind]


def mechanism_of(settings: DpSettings, silos: int) -> Mechanism:
    """Return the mechanism of a run in which ``silos`` share the noise of a sum."""
    return Mechanism(
        clip=settings.dp_clip,
        statistics_clip=settings.dp_statistics_clip,
        noise=settings.dp_noise,
        share=settings.dp_statistics_share,
        silos=silos,
    )
