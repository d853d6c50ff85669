"""A consortium for tests: silos with keys, a server between them, and silos that vanish."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvemoe_app.secagg.client import Client, Member
from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.keys import unseal
from fedvemoe_app.secagg.layout import Accumulator, Field, Lanes, Layout
from fedvemoe_app.secagg.memory import Memory
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import Policy, SessionSpec
from fedvemoe_app.secagg.transcript import Shown

Gone = Mapping[str, Collection[str]]
"""Which silos do not answer, by phase: advertise, share, upload, confirm, unmask."""


def names(count: int) -> list[str]:
    return [f"silo-{i:02d}" for i in range(count)]


IDENTITIES = {name: Identity.create(name) for name in names(12)}
ROSTER = Roster({name: identity.public for name, identity in IDENTITIES.items()})


def member(name: str, policy: Policy | None = None, roster: Roster = ROSTER) -> Member:
    return Member(IDENTITIES[name], roster, policy or Policy())


def zeros(layout: Layout) -> Lanes:
    """An upload of nothing, canaries included."""
    return {lane: np.zeros(layout.size(lane), layout.ring_of(lane).dtype) for lane in layout.lanes}


def silos(count: int, policy: Policy | None = None) -> dict[str, Client]:
    return {name: Client(member(name, policy)) for name in names(count)}


def memory_of(client: Client) -> Memory:
    """What the silo remembers, opened with its own key."""
    key = IDENTITIES[client.name].storage_key
    return Memory.from_bytes(unseal(key, client.to_bytes(), digest("memory")))


def spec_for(
    count: int, serial: int = 7, phase: str = "vectors", **settings: object
) -> SessionSpec:
    return SessionSpec.new(serial, phase, names(count), **settings)  # type: ignore[arg-type]


def layout_for(ring: Ring, step: float = 0.01, size: int = 10) -> Layout:
    return Layout(
        (
            Field("delta", (2, size), "tensors", (step, 2 * step)),
            Field("mass", (3,), "statistics"),
        ),
        ring,
    )


def arrays_for(index: int, size: int = 10) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(index)
    return {"delta": rng.standard_normal((2, size)), "mass": rng.random(3) * 100}


def shown_for(layout: Layout, model: int = 0, config: bytes = b"lr=1") -> Shown:
    return Shown.of({"theta": np.full(4, float(model))}, config, layout)


def seed_of(name: str) -> bytes:
    """The silo's dither seed: fixed, so that masked and plain sums can be compared."""
    return name.encode().rjust(16, b"-")


def uploads_of(layout: Layout, clients: Collection[str]) -> dict[str, Lanes]:
    return {
        name: layout.encode(arrays_for(i), seed_of(name)) for i, name in enumerate(sorted(clients))
    }


def simulated(layout: Layout, uploads: Mapping[str, Lanes]) -> dict[str, NDArray[Any]]:
    """The sum without masks: what privacy = sim computes."""
    sums = Accumulator(layout)
    for upload in uploads.values():
        sums.add(upload)
    return sums.total()


@dataclass
class Run:
    """One session, phase by phase; tests may stop in between and do something else."""

    server: Server
    clients: dict[str, Client]
    gone: Gone = field(default_factory=dict)

    @classmethod
    def of(cls, count: int, gone: Gone | None = None, **settings: object) -> Run:
        return cls(Server(spec_for(count, **settings), ROSTER), silos(count), gone or {})

    @property
    def spec(self) -> SessionSpec:
        return self.server.spec

    def present(self, *phases: str) -> list[str]:
        """Who still answers after the given phases."""
        lost = {name for phase in phases for name in self.gone.get(phase, ())}
        return [name for name in self.clients if name not in lost]

    def advertise(self) -> bytes:
        for name in self.present("advertise"):
            reply = self.clients[name].advertise(self.spec.to_bytes())
            assert self.server.take_advertisement(name, reply)
        return self.server.advertisements()

    def share(self) -> dict[str, bytes]:
        adverts = self.advertise()
        for name in self.present("advertise", "share"):
            assert self.server.take_shares(name, self.clients[name].share(adverts))
        return self.server.inboxes()

    def mask(
        self, shown: Shown, uploads: Mapping[str, Lanes], seen: Mapping[str, Shown] | None = None
    ) -> dict[str, Lanes]:
        """Masked uploads of all that shared; ``seen`` are silos that were shown something else."""
        inboxes = self.share()
        self.server.open_uploads(shown)
        masked = {}
        for name, inbox in inboxes.items():
            self.clients[name].receive(inbox)
            lanes = {lane: words.copy() for lane, words in uploads[name].items()}
            view = (seen or {}).get(name, shown)
            masked[name] = self.clients[name].mask(self.spec.session, view, lanes)
        return masked

    def upload(
        self, shown: Shown, uploads: Mapping[str, Lanes], seen: Mapping[str, Shown] | None = None
    ) -> bytes:
        masked = self.mask(shown, uploads, seen)
        for name in self.present("advertise", "share", "upload"):
            assert self.server.take_upload(name, masked[name])
        return self.server.survivors()

    def unmask(
        self, shown: Shown, uploads: Mapping[str, Lanes], seen: Mapping[str, Shown] | None = None
    ) -> dict[str, NDArray[Any]]:
        survivors = self.upload(shown, uploads, seen)
        if self.spec.confirm:
            for name in self.present("advertise", "share", "upload", "confirm"):
                self.server.take_confirmation(name, self.clients[name].confirm(survivors))
        request = self.server.unmasking()
        for name in self.present("advertise", "share", "upload", "confirm", "unmask"):
            assert self.server.take_unmasked(name, self.clients[name].unmask(request))
        return self.server.total()


def complete(
    count: int, gone: Gone | None = None, **settings: object
) -> tuple[Run, dict[str, NDArray[Any]], dict[str, NDArray[np.float64]]]:
    """Run a session to its end; return it, its sums and the sums of the survivors without masks."""
    run = Run.of(count, gone, **settings)
    layout = layout_for(run.spec.ring)
    uploads = uploads_of(layout, run.clients)
    total = run.unmask(shown_for(layout), uploads)
    plain = simulated(layout, {name: uploads[name] for name in run.server.silos})
    return run, total, plain
