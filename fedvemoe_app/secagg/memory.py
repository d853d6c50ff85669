"""What a silo remembers between messages: its open sessions and what must never happen again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from fedvemoe_app.secagg.codec import is_bytes, pack, unpack
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.ledger import Ledger
from fedvemoe_app.secagg.shamir import SHARE_BYTES
from fedvemoe_app.secagg.spec import SessionSpec
from fedvemoe_app.secagg.transcript import Advertisement

Stage = Literal["advertised", "shared", "received", "masked", "confirmed", "unmasked"]

MAX_SESSIONS = 16
"""Older sessions are forgotten, with their secrets."""


@dataclass(slots=True)
class Session:
    """One sum as one silo sees it; secrets are emptied as soon as they are used.

    ``adverts`` of all that advertised; ``share_keys`` for sealed shares, by peer; ``held`` shares
    of each sharer's seed and mask key [66]; ``binding`` and ``model`` from ``mask`` on;
    ``survivors`` that this silo signed.
    """

    spec: SessionSpec
    mask_private: bytes
    share_private: bytes
    seed: bytes
    stage: Stage = "advertised"
    adverts: dict[str, Advertisement] = field(default_factory=dict)
    share_keys: dict[str, bytes] = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)
    binding: bytes = b""
    model: bytes = b""
    survivors: list[str] = field(default_factory=list)

    @property
    def sharers(self) -> dict[str, Advertisement]:
        """Who shared, this silo included."""
        return {name: self.adverts[name] for name in self.held}

    def shares_of(self, name: str) -> tuple[bytes, bytes]:
        """Return the held shares of a silo's seed and of its mask key [33 each]."""
        held = self.held[name]
        return held[:SHARE_BYTES], held[SHARE_BYTES:]

    def fields(self) -> dict[str, Any]:
        """Return the fields, to be packed."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "spec": self.spec.to_bytes(),
            "adverts": {name: advert.fields() for name, advert in self.adverts.items()},
        }

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Return the session of ``fields``."""
        adverts = {name: Advertisement(**advert) for name, advert in fields["adverts"].items()}
        spec = SessionSpec.from_bytes(fields["spec"])
        return cls(**{**fields, "spec": spec, "adverts": adverts})


@dataclass(slots=True)
class Memory:
    """Open sessions, oldest first, and the ledger of what must never happen again."""

    sessions: list[Session] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def open(self, session: Session) -> None:
        """Remember a new session; SecAggRefusal unless it is newer than any of its run."""
        self.ledger.open(session.spec)
        self.sessions = [*self.sessions, session][-MAX_SESSIONS:]

    def session(self, id_: bytes, *stages: Stage) -> Session:
        """Return an open session; SecAggRefusal if it is unknown or not at one of ``stages``."""
        for session in self.sessions:
            if session.spec.session == id_:
                if session.stage not in stages:
                    raise SecAggRefusal(
                        f"session {session.spec.serial} has {session.stage} already; this message "
                        f"comes after {' or '.join(stages)}, once"
                    )
                return session
        raise SecAggRefusal("this silo advertised nothing for this session, or long ago")

    def to_bytes(self) -> bytes:
        """Return everything, secrets included."""
        sessions = [session.fields() for session in self.sessions]
        return pack({"sessions": sessions, "ledger": self.ledger.to_bytes()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the memory of ``to_bytes``."""
        fields = unpack(data, "memory", sessions=_is_list, ledger=is_bytes())
        sessions = [Session.of(item) for item in fields["sessions"]]
        return cls(sessions, Ledger.from_bytes(fields["ledger"]))


def _is_list(value: object) -> bool:
    return isinstance(value, list)
