"""A silo's side of secure sums (Bonawitz et al. 2017, double masking, complete graph).

Five steps for each session, each once and in this order; sessions overlap freely, so keys and
shares for the next sum can ride on replies of this one:

1. ``advertise``: fresh keys, signed             2. ``share``: shares of own secrets, sealed
3. ``receive`` and ``mask``: the upload           4. ``confirm``: sign who survived (if asked for)
5. ``unmask``: per peer one share, of its own mask if it survived, of its mask key if not

Store ``to_bytes()`` before a reply leaves: a silo that forgets a step could be made to repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Self

from fedvemoe_app.secagg import keys, shamir
from fedvemoe_app.secagg.codec import digest, is_bytes, is_map, is_names, pack, unpack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.layout import Lanes
from fedvemoe_app.secagg.ledger import Ledger
from fedvemoe_app.secagg.masks import apply_masks
from fedvemoe_app.secagg.memory import Memory, Session
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.spec import Policy, SessionSpec
from fedvemoe_app.secagg.transcript import (
    IS_SESSION,
    IS_SIGNATURE,
    Advertisement,
    Shown,
    adds,
    binding,
    check_distinct,
    confirmed,
    is_advertisement,
    mask_stream,
    share_keys,
    share_place,
)


@dataclass(frozen=True)
class Member:
    """Who a silo is, whom it trusts and what it demands: from its own settings alone."""

    identity: Identity
    roster: Roster
    policy: Policy


class Client:
    """The state of one silo. Every step raises SecAggRefusal, having given nothing away."""

    def __init__(self, member: Member, memory: Memory | None = None) -> None:
        self._member = member
        self._memory = memory or Memory()
        self.name = member.identity.name

    def to_bytes(self) -> bytes:
        """Return the state, sealed under the identity key."""
        return keys.seal(
            self._member.identity.storage_key, self._memory.to_bytes(), digest("memory")
        )

    @classmethod
    def from_bytes(cls, member: Member, state: bytes) -> Self:
        """Return the client of ``to_bytes``."""
        memory = keys.unseal(member.identity.storage_key, state, digest("memory"))
        return cls(member, Memory.from_bytes(memory))

    def ledger(self, known: bytes = b"") -> bytes:
        """Return what must outlive the run, sealed; nothing where that is ``known`` already."""
        data = self._memory.ledger.to_bytes()
        key = self._member.identity.storage_key
        return keys.seal(key, data, digest("ledger")) if data != known else b""

    def join(self, sealed: bytes) -> bytes:
        """Go by a ledger of earlier runs as well, and return it opened.

        SecAggRefusal if it is not this silo's.
        """
        data = keys.unseal(self._member.identity.storage_key, sealed, digest("ledger"))
        self._memory.ledger.join(Ledger.from_bytes(data))
        return data

    def advertise(self, message: bytes) -> bytes:
        """Take a spec; return the signed advertisement."""
        spec = SessionSpec.from_bytes(message)
        self._member.policy.check(spec, self.name, self._member.roster.members)
        session = Session(
            spec,
            mask_private=keys.fresh_secret(),
            share_private=keys.fresh_secret(),
            seed=keys.fresh_secret(),
        )
        self._memory.open(session)
        advert = Advertisement.signed(
            spec,
            self._member.identity,
            mask_key=keys.public_key(session.mask_private),
            share_key=keys.public_key(session.share_private),
            seed=session.seed,
        )
        session.adverts = {self.name: advert}
        return pack({"session": spec.session, "advert": advert.fields()})

    def share(self, message: bytes) -> bytes:
        """Take all advertisements; return for each peer its shares of this silo's two secrets."""
        fields = unpack(
            message, "advertisements", session=IS_SESSION, adverts=is_map(is_advertisement)
        )
        session = self._memory.session(fields["session"], "advertised")
        adverts = {name: Advertisement(**advert) for name, advert in fields["adverts"].items()}
        self._check_advertisements(session, adverts)
        peers = {peer: advert.share_key for peer, advert in adverts.items() if peer != self.name}
        agreed = share_keys(session.share_private, peers, session.spec)
        shares = _split(session)
        sealed = {
            peer: keys.seal(key, shares[peer], share_place(session.spec, self.name, peer))
            for peer, key in agreed.items()
        }
        session.adverts, session.share_keys, session.share_private = adverts, agreed, b""
        session.held = {self.name: shares[self.name]}
        session.stage = "shared"
        return pack({"session": session.spec.session, "sealed": sealed})

    def _check_advertisements(self, session: Session, adverts: dict[str, Advertisement]) -> None:
        if adverts.get(self.name) != session.adverts[self.name]:
            raise SecAggRefusal("this silo's own advertisement was replaced")
        if len(adverts) < session.spec.threshold:
            raise SecAggRefusal(f"{len(adverts)} silos advertised, below {session.spec.threshold}")
        for name, advert in adverts.items():
            if name != self.name:  # which is what this silo signed, bit for bit
                advert.check(session.spec, name, self._member.roster)
        check_distinct(adverts.values())

    def receive(self, message: bytes) -> SessionSpec:
        """Take the peers' sealed shares; return the spec of the sum that may now be masked."""
        fields = unpack(message, "shares", session=IS_SESSION, sealed=is_map(is_bytes()))
        session = self._memory.session(fields["session"], "shared")
        sealed = fields["sealed"]
        strangers = sealed.keys() - session.share_keys.keys()
        if strangers or len(sealed) + 1 < session.spec.threshold:
            raise SecAggRefusal(
                f"shares of {len(sealed)} peers, {len(strangers)} of them unknown; "
                f"need {session.spec.threshold - 1}"
            )
        opened = {peer: self._opened(session, peer, data) for peer, data in sealed.items()}
        session.held |= opened
        session.share_keys = {}
        session.stage = "received"
        return session.spec

    def _opened(self, session: Session, peer: str, sealed: bytes) -> bytes:
        place = share_place(session.spec, peer, self.name)
        shares = keys.unseal(session.share_keys[peer], sealed, place)
        if len(shares) != 2 * shamir.SHARE_BYTES:
            raise SecAggRefusal(f"shares of {peer} have {len(shares)} bytes")
        return shares

    def mask(self, session_id: bytes, shown: Shown, lanes: Lanes) -> Lanes:
        """Mask ``lanes`` in place and return them; whoever else was ``shown`` the same can sum.

        ``lanes`` come from ``shown.layout.encode``. The masking secrets are gone afterwards.
        """
        session = self._memory.session(session_id, "received")
        if shown.layout.ring != session.spec.ring:
            raise SecAggRefusal("the layout's ring is not that of the session")
        shown.layout.check(lanes)
        bound_to = binding(session.spec, session.sharers, shown)
        added: list[bytes] = [session.seed]
        subtracted: list[bytes] = []
        peers = {peer: session.adverts[peer].mask_key for peer in session.held if peer != self.name}
        for peer, pair in keys.agree(session.mask_private, peers).items():
            (added if adds(self.name, peer) else subtracted).append(pair)
        for lane, words in lanes.items():
            streams = partial(mask_stream, bound_to=bound_to, lane=lane)
            apply_masks(words, plus=list(map(streams, added)), minus=list(map(streams, subtracted)))
        session.mask_private, session.seed = b"", b""
        session.binding = bound_to
        session.model = shown.model or digest("no model", str(session.spec.run), shown.config)
        session.stage = "masked"
        return lanes

    def confirm(self, message: bytes) -> bytes:
        """Take the names of the survivors; return this silo's signature on them."""
        fields = unpack(message, "survivors", session=IS_SESSION, survivors=is_names)
        session = self._memory.session(fields["session"], "masked")
        survivors = fields["survivors"]
        self._check_survivors(session, survivors)
        session.survivors = survivors
        session.stage = "confirmed"
        signature = self._member.identity.sign(confirmed(session.binding, survivors))
        return pack({"session": session.spec.session, "signature": signature})

    def unmask(self, message: bytes) -> bytes:
        """Take the survivors and their signatures; return one share of each sharer's secrets."""
        fields = unpack(
            message,
            "unmask",
            session=IS_SESSION,
            survivors=is_names,
            signatures=is_map(IS_SIGNATURE),
        )
        session = self._memory.session(fields["session"], "masked", "confirmed")
        survivors = fields["survivors"]
        self._check_survivors(session, survivors)
        if session.spec.confirm:
            self._check_signatures(session, survivors, fields["signatures"])
        self._check_repeat(session, survivors)
        reply = _revealed(session, survivors)
        session.held, session.adverts = {}, {}
        session.stage = "unmasked"
        return reply

    def _check_survivors(self, session: Session, survivors: list[str]) -> None:
        if self.name not in survivors or not session.held.keys() >= set(survivors):
            raise SecAggRefusal("survivors must be this silo and others who shared")
        if len(survivors) < session.spec.least_survivors:
            raise SecAggRefusal(f"{len(survivors)} survivors, below {session.spec.least_survivors}")

    def _check_signatures(
        self, session: Session, survivors: list[str], signatures: dict[str, bytes]
    ) -> None:
        if session.stage != "confirmed" or session.survivors != survivors:
            raise SecAggRefusal("these are not the survivors that this silo confirmed")
        if not signatures.keys() <= set(survivors) or len(signatures) < session.spec.threshold:
            raise SecAggRefusal(
                f"{len(signatures)} signatures on the survivors, need {session.spec.threshold}"
            )
        for name, signature in signatures.items():
            self._member.roster.check(name, confirmed(session.binding, survivors), signature)

    def _check_repeat(self, session: Session, survivors: list[str]) -> None:
        """One model, one set of survivors: two sums of one model differ by single silos."""
        what = f"{session.spec.phase}/{session.model.hex()}"
        who = digest("repeat", *survivors)
        if self._member.policy.allow_repeats:
            return
        self._memory.ledger.unmask(what, who, session.spec.phase)


def _split(session: Session) -> dict[str, bytes]:
    """Return for each of the cohort its shares of the seed and of the mask key [66]."""
    spec = session.spec
    seeds, mask_keys = (
        shamir.split(secret, spec.threshold, len(spec.cohort))
        for secret in (session.seed, session.mask_private)
    )
    return {name: seeds[i] + mask_keys[i] for i, name in enumerate(spec.cohort, start=1)}


def _revealed(session: Session, survivors: list[str]) -> bytes:
    seeds = {name: session.shares_of(name)[0] for name in survivors}
    dropped = session.held.keys() - set(survivors)
    mask_keys = {name: session.shares_of(name)[1] for name in dropped}
    return pack({"session": session.spec.session, "seeds": seeds, "mask_keys": mask_keys})
