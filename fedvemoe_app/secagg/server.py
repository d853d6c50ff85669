"""The server's side of one secure sum: passes messages on, adds uploads, removes masks.

``take_*`` collect one silo's message of a phase; what is malformed, foreign or repeated is noted
in ``refused`` and counts as a dropout. The method that ends a phase returns what to send next and
raises SecAggAbort if too few are left; then the sum is void and nothing of it is kept.

    server.spec.to_bytes()         -> every silo of the cohort
    take_advertisement ...            advertisements() -> who advertised
    take_shares ...                   inboxes()        -> each its own
    open_uploads(shown), take_upload ...  survivors()  -> the survivors (sent if spec.confirm)
    take_confirmation (if spec.confirm)   unmasking()  -> the survivors
    take_unmasked ...                 total()          -> the sums
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from fedvemoe_app.errors import RunError
from fedvemoe_app.secagg import shamir
from fedvemoe_app.secagg.codec import is_bytes, is_map, pack, unpack
from fedvemoe_app.secagg.errors import SecAggAbort, SecAggRefusal
from fedvemoe_app.secagg.keys import agree, public_key
from fedvemoe_app.secagg.layout import Accumulator, Lanes
from fedvemoe_app.secagg.masks import apply_masks
from fedvemoe_app.secagg.roster import Roster
from fedvemoe_app.secagg.spec import SessionSpec
from fedvemoe_app.secagg.transcript import (
    IS_SESSION,
    IS_SIGNATURE,
    Advertisement,
    Shown,
    adds,
    binding,
    check_distinct,
    commit,
    confirmed,
    is_advertisement,
    mask_stream,
)

Phase = Literal["advertise", "share", "upload", "confirm", "unmask", "done"]
_IS_SHARES = is_map(is_bytes(shamir.SHARE_BYTES))


class Server:
    """One session. ``refused`` tells, by silo, why its message was not taken."""

    def __init__(self, spec: SessionSpec, roster: Roster) -> None:
        self.spec = spec
        self.refused: dict[str, str] = {}
        self._roster = roster
        self._phase: Phase = "advertise"
        self._adverts: dict[str, Advertisement] = {}
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._sums: Accumulator | None = None
        self._binding = b""
        self._uploaded: list[str] = []
        self._signatures: dict[str, bytes] = {}
        self._shares: dict[str, dict[str, dict[str, bytes]]] = {}

    # Phase 0: advertisements.

    def take_advertisement(self, name: str, message: bytes) -> bool:
        """Take a reply of ``Client.advertise``; False if it was refused."""
        return self._take("advertise", name, self._adverts, partial(self._advert, name, message))

    def _advert(self, name: str, message: bytes) -> None:
        advert = Advertisement(**self._fields(message, advert=is_advertisement)["advert"])
        advert.check(self.spec, name, self._roster)
        check_distinct([*self._adverts.values(), advert])
        self._adverts[name] = advert

    def advertisements(self) -> bytes:
        """End the phase; return the message for ``Client.share`` of all that advertised."""
        self._end("advertise", self._adverts, self.spec.threshold, "share")
        return self._message(adverts={n: advert.fields() for n, advert in self._adverts.items()})

    # Phase 1: sealed shares.

    def take_shares(self, name: str, message: bytes) -> bool:
        """Take a reply of ``Client.share``; False if it was refused."""
        return self._take("share", name, self._sealed, partial(self._share, name, message))

    def _share(self, name: str, message: bytes) -> None:
        sealed = self._fields(message, sealed=is_map(is_bytes()))["sealed"]
        if name not in self._adverts or sealed.keys() != self._adverts.keys() - {name}:
            raise SecAggRefusal("shares must be for all others that advertised")
        self._sealed[name] = sealed

    def inboxes(self) -> dict[str, bytes]:
        """End the phase; return the message for ``Client.receive`` of each that shared."""
        self._end("share", self._sealed, self.spec.threshold, "upload")
        return {
            dst: self._message(
                sealed={src: s[dst] for src, s in self._sealed.items() if src != dst}
            )
            for dst in self._sealed
        }

    # Phase 2: masked uploads.

    def open_uploads(self, shown: Shown) -> None:
        """Say what silos are shown along with their inboxes; uploads are summed by its layout."""
        if shown.layout.ring != self.spec.ring:
            raise RunError("the layout's ring is not that of the session")
        self._binding = binding(self.spec, self._sharers, shown)
        self._sums = Accumulator(shown.layout)

    @property
    def _sharers(self) -> dict[str, Advertisement]:
        return {name: self._adverts[name] for name in self._sealed}

    def take_upload(self, name: str, lanes: Lanes) -> bool:
        """Add the lanes of ``Client.mask`` to the sum; False if they were refused."""
        return self._take("upload", name, self._uploaded, partial(self._upload, name, lanes))

    def _upload(self, name: str, lanes: Lanes) -> None:
        if name not in self._sealed:
            raise SecAggRefusal("an upload of a silo that did not share")
        self._opened.add(lanes)
        self._uploaded.append(name)

    @property
    def _opened(self) -> Accumulator:
        if self._sums is None:
            raise RunError("the session has no open sum: call open_uploads first")
        return self._sums

    def survivors(self) -> bytes:
        """End the phase; return the message for ``Client.confirm`` of all that uploaded."""
        self._end("upload", self._uploaded, self.spec.least_survivors, "confirm")
        return self._message(survivors=sorted(self._uploaded))

    # Phase 3: confirmations.

    def take_confirmation(self, name: str, message: bytes) -> bool:
        """Take a reply of ``Client.confirm``; False if it was refused."""
        return self._take("confirm", name, self._signatures, partial(self._sign, name, message))

    def _sign(self, name: str, message: bytes) -> None:
        signature = self._fields(message, signature=IS_SIGNATURE)["signature"]
        if name not in self._uploaded:
            raise SecAggRefusal("a confirmation of a silo that did not upload")
        self._roster.check(name, confirmed(self._binding, self._uploaded), signature)
        self._signatures[name] = signature

    def unmasking(self) -> bytes:
        """End the phase; return the message for ``Client.unmask`` of the survivors."""
        needed = self.spec.threshold if self.spec.confirm else 0
        self._end("confirm", self._signatures, needed, "unmask")
        return self._message(survivors=sorted(self._uploaded), signatures=self._signatures)

    # Phase 4: shares of the masks.

    def take_unmasked(self, name: str, message: bytes) -> bool:
        """Take a reply of ``Client.unmask``; False if it was refused."""
        return self._take("unmask", name, self._shares, partial(self._reveal, name, message))

    def _reveal(self, name: str, message: bytes) -> None:
        fields = self._fields(message, seeds=_IS_SHARES, mask_keys=_IS_SHARES)
        complete = fields["seeds"].keys() == set(self._uploaded) and fields[
            "mask_keys"
        ].keys() == self._sealed.keys() - set(self._uploaded)
        if name not in self._uploaded or not complete:
            raise SecAggRefusal("shares must be of survivors' seeds and dropouts' mask keys")
        self._shares[name] = fields

    def total(self) -> dict[str, NDArray[Any]]:
        """End the session; return the sums by field, over ``silos`` survivors."""
        self._end("unmask", self._shares, self.spec.threshold, "done")
        try:
            self._remove_masks()
            return self._opened.total()
        except (SecAggAbort, SecAggRefusal) as error:
            raise SecAggAbort(
                f"phase unmask: {error}; session {self.spec.serial} is void"
            ) from None
        finally:
            self._sums = None

    @property
    def silos(self) -> tuple[str, ...]:
        """Who is in the sum."""
        return tuple(sorted(self._uploaded))

    def _remove_masks(self) -> None:
        added = [self._seed(name) for name in self._uploaded]
        subtracted: list[bytes] = []
        for gone in sorted(self._sealed.keys() - set(self._uploaded)):
            peers = {name: self._adverts[name].mask_key for name in self._uploaded}
            for name, pair in agree(self._mask_key(gone), peers).items():
                (added if adds(name, gone) else subtracted).append(pair)
        for lane, words in self._opened.lanes.items():
            streams = partial(mask_stream, bound_to=self._binding, lane=lane)
            apply_masks(words, plus=list(map(streams, subtracted)), minus=list(map(streams, added)))

    def _seed(self, name: str) -> bytes:
        commitment = self._adverts[name].commitment
        return self._recovered(name, "seeds", lambda s: commit(self.spec, name, s) == commitment)

    def _mask_key(self, name: str) -> bytes:
        public = self._adverts[name].mask_key
        return self._recovered(name, "mask_keys", lambda private: public_key(private) == public)

    def _recovered(self, name: str, kind: str, right: Callable[[bytes], bool]) -> bytes:
        shares = {self.spec.number(src): kinds[kind][name] for src, kinds in self._shares.items()}
        secret = shamir.recover(shares, self.spec.threshold, right)
        if secret is None:
            raise SecAggAbort(f"the shares of {name} are wrong")
        return secret

    # What all phases have in common.

    @property
    def _void(self) -> str:
        return f"session {self.spec.serial} is void"

    def _message(self, **fields: object) -> bytes:
        return pack({"session": self.spec.session, **fields})

    def _fields(self, message: bytes, **checks: Callable[[object], bool]) -> dict[str, Any]:
        fields = unpack(message, self._phase, session=IS_SESSION, **checks)
        if fields.pop("session") != self.spec.session:
            raise SecAggRefusal("a message of another session")
        return fields

    def _take(
        self, phase: Phase, name: str, taken: Collection[str], take: Callable[[], None]
    ) -> bool:
        try:
            if self._phase != phase:
                raise SecAggRefusal(f"a message of phase {phase} in phase {self._phase}")
            if name in taken:
                raise SecAggRefusal(f"a second message in phase {phase}")
            take()
        except SecAggRefusal as error:
            self.refused[name] = str(error)
            return False
        return True

    def _end(self, phase: Phase, left: Collection[str], needed: int, following: Phase) -> None:
        if self._phase != phase:
            raise RunError(f"phase {phase} cannot end: the session is in phase {self._phase}")
        if len(left) < needed:
            self._phase, self._sums = "done", None
            raise SecAggAbort(
                f"phase {phase}: {len(left)} of {len(self.spec.cohort)} clients left, "
                f"need {needed}; {self._void}"
            )
        self._phase = following
