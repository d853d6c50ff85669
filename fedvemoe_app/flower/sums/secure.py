"""Secure sums on Flower's message API: the server's end (``privacy = secagg`` and ``sim``).

Two exchanges for each sum in steady state: the silos' masked words come up, then the shares that
take the masks off. Keys and shares for the next sum ride on these replies; when the silos asked
change, two more exchanges set up the new sum. ``sim`` sends the same words without masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.words import (
    carrying,
    get_lanes,
    get_own,
    layout_in,
    most_bytes,
    put_own,
    shown_in,
    tensors_of,
)
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.flower.sums.account import Account
from fedvemoe_app.flower.sums.exchange import Replied
from fedvemoe_app.flower.sums.one_reply import MESSAGE_MB, OneReplyGrid, Tally
from fedvemoe_app.flower.sums.repeats import Repeats
from fedvemoe_app.secagg.errors import SecAggAbort, unless_aborted
from fedvemoe_app.secagg.layout import Accumulator
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.roster import Roster
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import SessionSpec, least_threshold

PHASE = "sum"
Take = Callable[[str, RecordDict], None]  # RunError where a reply's content is of no use


class SecureGrid(OneReplyGrid):
    """Adds words that no single silo's numbers can be read from.

    Parameters
    ----------
    roster
        Identity keys of all silos; silos check signatures against their own copy.
    masked
        False for ``sim``: the same words and sums, without keys and masks.
    min_survivors
        Silos that a sum must hold.
    bits
        Of a word of large tensors: 32, or 16 for up to 16 silos.
    confirm
        Let silos sign who survived before they unmask: one more exchange for each sum.

    """

    def __init__(
        self,
        grid: Grid,
        names: Mapping[int, str],
        roster: Roster,
        *,
        masked: bool = True,
        bits: int = 32,
        min_survivors: int = 3,
        confirm: bool = False,
        message_mb: float = MESSAGE_MB,
        replied: Replied | None = None,
    ) -> None:
        super().__init__(grid, names, message_mb=message_mb, replied=replied)
        self._roster = roster
        self._masked = masked
        self._bits = bits
        self._min_survivors = min_survivors
        self._confirm = confirm
        self._repeats = Repeats(min_survivors)
        self._run, self._sessions = time.time_ns() // 10**6, 0  # a later run has a larger number
        self._upcoming: tuple[Server, dict[str, bytes]] | None = None
        self._account = Account()

    def sum(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], Tally]:
        """Exchange these messages, by silo, for the sums; none, and why, where a sum is void."""
        self._account = Account()
        try:
            sums, silos = (self._secure if self._masked else self._plain)(sent, timeout)
        except SecAggAbort as abort:
            self._upcoming = None
            final = self._masked and self._repeats.final(sent)
            return {}, self._account.tally(0, void=str(abort), final=final)
        self.sums += 1
        return sums, self._account.tally(silos)

    def state(self) -> State:
        """Return what the sums to come depend on, and what silos will not unmask again."""
        return State({}, {**super().state().facts, "repeats": self._repeats.facts()})

    def restore(self, state: State) -> None:
        """Go on from there."""
        super().restore(state)
        self._repeats.restore(state.facts["repeats"])

    def _plain(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], int]:
        """Add the words of ``secagg``, sent without masks."""
        layout = layout_in(sent, Ring(self._bits, len(sent)))
        sums = Accumulator(layout)
        carried = {name: self._carrying(message, len(sent)) for name, message in sent.items()}

        def take(name: str, content: RecordDict) -> None:
            sums.add(get_lanes(content))

        self._exchanged(carried, timeout, take, most_bytes(layout))
        needed = max(least_threshold(len(sent)), self._min_survivors)
        if sums.silos < needed:
            raise SecAggAbort(f"{sums.silos} of {len(sent)} silos left, need {needed}")
        return tensors_of(sums.total()), sums.silos

    def _secure(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[dict[str, Tensor], int]:
        """Run one session: uploads, then the shares that take the masks off."""
        sent, self._account.failures = self._repeats.narrowed(sent)
        server, inboxes = self._ready(sent, timeout)
        upcoming = self._session(sent)
        model = self._upload(server, inboxes, upcoming, sent, timeout)
        survivors = server.survivors()
        if self._confirm:
            self._ask(server, "confirm", survivors, server.take_confirmation, timeout)
        self._repeats.begin(model, server.silos)
        self._unmask(server, upcoming, timeout)
        sums = server.total()
        self._repeats.done(model)
        return tensors_of(sums), len(server.silos)

    def _ready(
        self, sent: Mapping[str, Message], timeout: float | None
    ) -> tuple[Server, dict[str, bytes]]:
        """Return a session of those that are asked, who all have shared; a fresh one if need be."""
        ready, self._upcoming = self._upcoming, None
        if ready and ready[1].keys() == sent.keys() == set(ready[0].spec.cohort):
            return ready
        server = self._session(sent)
        self._ask(server, "advertise", server.spec.to_bytes(), server.take_advertisement, timeout)
        self._ask(server, "share", server.advertisements(), server.take_shares, timeout)
        return server, server.inboxes()

    def _session(self, silos: Mapping[str, Message]) -> Server:
        """Return a session of its own number: silos refuse one that is not newer than the last."""
        self._sessions += 1
        spec = SessionSpec.new(
            *(self._sessions, PHASE, silos),
            run=self._run,
            bits=self._bits,
            min_survivors=self._min_survivors,
            confirm=self._confirm,
        )
        return Server(spec, self._roster)

    def _upload(
        self,
        server: Server,
        inboxes: Mapping[str, bytes],
        upcoming: Server,
        sent: Mapping[str, Message],
        timeout: float | None,
    ) -> bytes:
        """Ask for uploads, add them, and return the hash of the model that silos are shown."""
        layout = layout_in(sent, server.spec.ring)
        shown = shown_in(next(iter(sent.values())).content, layout)
        server.open_uploads(shown)
        following = upcoming.spec.to_bytes()
        carried = {
            name: self._carrying(sent[name], len(sent), inbox=inbox, next=following)
            for name, inbox in inboxes.items()
        }

        def take(name: str, content: RecordDict) -> None:
            advert = get_own(content, "advert")
            _require(server, name, server.take_upload(name, get_lanes(content)))
            upcoming.take_advertisement(name, advert)

        self._exchanged(carried, timeout, take, most_bytes(layout))
        return shown.model

    def _unmask(self, server: Server, upcoming: Server, timeout: float | None) -> None:
        """Ask the survivors for shares of this session, and for their shares of the next."""
        adverts = unless_aborted(upcoming.advertisements)
        unmasking = server.unmasking()

        def take(name: str, content: RecordDict) -> None:
            _require(server, name, server.take_unmasked(name, get_own(content, "reply")))
            if adverts:
                upcoming.take_shares(name, get_own(content, "shares"))

        asked = {
            name: self._message(name, "unmask", request=unmasking, adverts=adverts or b"")
            for name in server.silos
        }
        self._exchanged(asked, timeout, take)
        inboxes = unless_aborted(upcoming.inboxes) if adverts else None
        self._upcoming = (upcoming, inboxes) if inboxes else None

    def _ask(
        self,
        server: Server,
        step: str,
        request: bytes,
        taken: Callable[[str, bytes], bool],
        timeout: float | None,
    ) -> None:
        """Run an exchange of the protocol's own with all that have not fallen out."""

        def take(name: str, content: RecordDict) -> None:
            _require(server, name, taken(name, get_own(content, "reply")))

        left = [name for name in server.spec.cohort if name not in self._account.failures]
        asked = {name: self._message(name, step, request=request) for name in left}
        self._exchanged(asked, timeout, take)

    def _exchanged(
        self,
        messages: Mapping[str, Message],
        timeout: float | None,
        take: Take,
        most: int = 0,
    ) -> None:
        """Send, and take what comes back as it comes: the order does not matter to words."""
        self._account.sent(messages.values())
        for name, answer in self.collect(messages, timeout, most):
            self._account.take(name, answer, partial(take, name))
            del answer  # the next upload takes its place

    def _carrying(self, message: Message, silos: int, **own: bytes) -> Message:
        return carrying(message, number=self.sums + 1, bits=self._bits, silos=silos, **own)

    def _message(self, name: str, step: str, **own: bytes) -> Message:
        content = RecordDict()
        put_own(content, **own)
        nodes = {name: node for node, name in self._names.items()}  # of several the last counts
        return Message(content, nodes[name], f"query.secagg_{step}")


def _require(server: Server, name: str, taken: bool) -> None:
    if not taken:
        raise RunError(server.refused[name])
