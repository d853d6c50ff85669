"""One round of this package's secure aggregation: real silos, a real server, the true sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.secagg_case import Case, Stopwatch
from fedvemoe_app.secagg.client import Client, Member
from fedvemoe_app.secagg.layout import Field, Lanes, Layout
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import Policy, SessionSpec
from fedvemoe_app.secagg.transcript import Shown

KAPPA = {32: 256.0, 16: 32.0}
SEED = b"dither of a silo"
FLOAT32 = 2.0**-22
"""Relative error of numbers that were divided and summed up in single precision."""


@dataclass
class OurRound:
    """All silos send the same vector, so that the sum is known."""

    case: Case
    bits: int
    vectors: NDArray[np.float32]
    rms: float

    def run(self, watch: Stopwatch) -> int:
        """Measure the mean client and the server; return the bytes of one upload."""
        names = [f"silo-{i:03d}" for i in range(self.case.silos)]
        identities = {name: Identity.create(name) for name in names}
        roster = Roster({name: identity.public for name, identity in identities.items()})
        self._clients = {n: Client(Member(identities[n], roster, Policy())) for n in names}
        spec = SessionSpec.new(1, "vectors", names, bits=self.bits)
        self._server, self._watch = Server(spec, roster), watch
        step = spec.ring.step(self.rms, KAPPA[self.bits])
        layout = Layout((Field("vectors", self.vectors.shape, "tensors", (step,)),), spec.ring)
        self._keys()
        size = self._vectors(Shown.of({}, b"", layout))
        self._unmask(layout, step)
        return size

    def _keys(self) -> None:
        server, watch, count = self._server, self._watch, self.case.silos
        replies = {}
        message = server.spec.to_bytes()
        with watch.client("keys", count):
            for name, client in self._clients.items():
                replies[name] = client.advertise(message)
        with watch.server("keys"):
            for name, reply in replies.items():
                assert server.take_advertisement(name, reply)
            message = server.advertisements()
        with watch.client("keys", count):
            for name, client in self._clients.items():
                replies[name] = client.share(message)
        with watch.server("keys"):
            for name, reply in replies.items():
                assert server.take_shares(name, reply)
            inboxes = server.inboxes()
        with watch.client("keys", count):
            for name, client in self._clients.items():
                client.receive(inboxes[name])

    def _vectors(self, shown: Shown) -> int:
        server, watch = self._server, self._watch
        with watch.server("vectors"):
            server.open_uploads(shown)
        survivors = list(self._clients)[: self.case.silos - self.case.dropouts]
        for name in survivors:
            with watch.client("vectors", len(survivors)):
                lanes = shown.layout.encode({"vectors": self.vectors}, SEED)
                masked = self._clients[name].mask(server.spec.session, shown, lanes)
                wire = masked["tensors"].tobytes()
            with watch.server("vectors"):
                received: Lanes = {"tensors": np.frombuffer(wire, server.spec.ring.dtype)}
                assert server.take_upload(name, received)
        return len(wire)

    def _unmask(self, layout: Layout, step: float) -> None:
        server, watch = self._server, self._watch
        with watch.server("unmask"):
            server.survivors()
            request = server.unmasking()
        replies = {}
        with watch.client("unmask", len(server.silos)):
            for name in server.silos:
                replies[name] = self._clients[name].unmask(request)
        with watch.server("unmask"):
            for name, reply in replies.items():
                assert server.take_unmasked(name, reply)
            total = server.total()["vectors"]
        sample = slice(None, None, max(1, total.size // 1000))
        exact = self.vectors[sample].astype(np.float64) * len(server.silos)
        error = np.abs(total[sample] - exact) - FLOAT32 * np.abs(exact)
        assert (error <= len(server.silos) * step).all()
