"""Attacks by showing silos different things: masks do not cancel, and the session is void.

Removed by hand, each turned a test here red: masks bound to the model, to the settings, to the
steps, to who shared, under which name, by which keys, to the session; the layout's ring is the
session's; lanes fit the layout.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from fedvemoe_app.secagg.codec import pack
from fedvemoe_app.secagg.errors import SecAggAbort, SecAggRefusal
from fedvemoe_app.secagg.layout import Field, Layout
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.transcript import Advertisement, Shown, binding
from tests.secagg.attack import VICTIM, fields_of, prepared
from tests.secagg.consortium import (
    Run,
    layout_for,
    memory_of,
    names,
    shown_for,
    spec_for,
)

KEYS = ("mask_key", "share_key", "commitment")


def void(run: Run, shown: Shown, uploads: dict, seen: dict[str, Shown]) -> None:
    with pytest.raises(SecAggAbort, match="does not add up; session 7 is void"):
        run.unmask(shown, uploads, seen)


def test_a_silo_shown_another_model_voids_the_session() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(shown.layout, model=1)})


def test_a_silo_shown_other_settings_voids_the_session() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(shown.layout, config=b"lr=2")})


def test_a_silo_shown_other_steps_voids_the_session() -> None:
    run, shown, uploads = prepared()
    void(run, shown, uploads, {VICTIM: shown_for(layout_for(run.spec.ring, step=0.5))})


def test_a_model_is_told_apart_by_names_types_shapes_and_values() -> None:
    layout = layout_for(Ring(32, 4))
    models = [
        {"a": np.zeros(4)},
        {"b": np.zeros(4)},
        {"a": np.zeros((2, 2))},
        {"a": np.zeros(4, np.int64)},
        {"a": np.array([0, 0, 0, 1e-9])},
        {"a": np.zeros(4), "b": np.zeros(1)},
    ]
    assert len({Shown.of(model, b"", layout).hash for model in models}) == len(models)
    transposed = np.arange(6.0).reshape(2, 3).T
    plain = Shown.of({"a": np.ascontiguousarray(transposed)}, b"", layout)
    assert Shown.of({"a": transposed}, b"", layout) == plain


def test_masks_hang_on_the_session_and_on_every_key_of_every_sharer() -> None:
    spec, shown = spec_for(4), shown_for(layout_for(Ring(32, 4)))
    sharers = {name: Advertisement(*(os.urandom(32),) * 3, bytes(64)) for name in names(3)}
    first, second = sharers[VICTIM], sharers["silo-01"]
    views = [sharers | {VICTIM: replace(first, **{key: bytes(32)})} for key in KEYS]
    views += [
        sharers,
        sharers | {VICTIM: replace(first, signature=bytes([1]) * 64)},
        sharers | {VICTIM: second, "silo-01": first},
        {name: sharers[name] for name in names(2)},
        {("silo-03" if name == "silo-02" else name): sharers[name] for name in names(3)},
    ]
    found = {binding(spec, view, shown) for view in views}
    found |= {binding(other, sharers, shown) for other in (replace(spec, serial=8), spec_for(4))}
    assert len(found) == len(views) + 2


def test_different_views_of_who_shared_void_the_session() -> None:
    """Silo 4 shared; the victim is told that it did not."""
    run, shown, uploads = prepared(5)
    inboxes = run.share()
    sealed = fields_of(inboxes[VICTIM], "sealed")["sealed"]
    del sealed["silo-04"]  # type: ignore[attr-defined]
    inboxes[VICTIM] = pack({"session": run.spec.session, "sealed": sealed})
    run.server.open_uploads(shown)
    for name, client in run.clients.items():
        client.receive(inboxes[name])
        lanes = client.mask(run.spec.session, shown, uploads[name])
        if name != "silo-04":
            run.server.take_upload(name, lanes)
    bindings = {name: memory_of(run.clients[name]).sessions[0].binding for name in names(4)}
    assert len({bindings[name] for name in names(4)[1:]}) == 1
    assert bindings[VICTIM] != bindings["silo-01"]
    run.server.survivors()
    request = run.server.unmasking()
    for name in names(4):
        run.server.take_unmasked(name, run.clients[name].unmask(request))
    with pytest.raises(SecAggAbort, match=r"phase unmask: .* session 7 is void"):
        run.server.total()


def test_lanes_of_another_ring_or_layout_are_refused() -> None:
    run, _, uploads = prepared(4)
    for name, inbox in run.share().items():
        run.clients[name].receive(inbox)
    client, session = run.clients[VICTIM], run.spec.session
    wider = layout_for(Ring(32, 9))
    with pytest.raises(SecAggRefusal, match="ring is not that of the session"):
        client.mask(session, shown_for(wider), uploads[VICTIM])
    longer = Layout((Field("delta", (99,), "tensors"),), run.spec.ring)
    with pytest.raises(SecAggRefusal, match="differs from the layout"):
        client.mask(session, shown_for(longer), uploads[VICTIM])
