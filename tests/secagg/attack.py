"""What tests of attacks share: a victim, and messages that are read and changed on the way."""

from __future__ import annotations

from fedvemoe_app.secagg.codec import pack, unpack
from fedvemoe_app.secagg.transcript import Shown
from tests.secagg.consortium import (
    Run,
    layout_for,
    shown_for,
    uploads_of,
)

VICTIM = "silo-00"


def anything(value: object) -> bool:
    return True


def fields_of(message: bytes, *keys: str) -> dict[str, object]:
    return unpack(message, "message", **dict.fromkeys(("session", *keys), anything))


def changed(message: bytes, **fields: object) -> bytes:
    return pack(fields_of(message, *fields) | fields)


def prepared(count: int = 5, **settings: object) -> tuple[Run, Shown, dict]:
    run = Run.of(count, **settings)
    layout = layout_for(run.spec.ring)
    return run, shown_for(layout), uploads_of(layout, run.clients)
