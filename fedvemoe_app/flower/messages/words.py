"""Words on the wire: lanes of a secure sum as records, and what a message shows a silo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import (
    LONGEST_HEADER,
    array_of,
    arrays_in,
    texts_in,
    vector_of,
)
from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.layout import Arrays, Field, Lanes, Layout
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.transcript import Shown

KAPPA = {32: 256.0, 16: 32.0}
"""Largest value of a tensor in root mean squares, by bits of a word.

32 bits leave a relative step of about 1e-6 with ten silos, 16 bits one of 1e-2.
"""
OWN = "secagg"
"""The record of a message that belongs to the protocol and differs from silo to silo."""


def layout_of(template: Template, ring: Ring) -> Layout:
    """Return the layout of a template's sums; both ends compute it, and masks are bound to it."""
    fields = []
    for name, shape in template.shapes.items():
        if name in template.rms:
            learnt = tuple(ring.step(rms, KAPPA[ring.bits]) for rms in template.rms[name])
            steps = (template.step,) if template.step else learnt
            fields.append(Field(name, shape, "tensors", steps))
        else:
            fields.append(Field(name, shape, "statistics"))
    return Layout(tuple(fields), ring)


def layout_in(sent: Mapping[str, Message], ring: Ring) -> Layout:
    """Return the layout of what messages with one template ask for."""
    return layout_of(Template.get(next(iter(sent.values())).content), ring)


def model_in(sent: Mapping[str, Message]) -> bytes:
    """Return the hash of the model that messages show to all silos alike."""
    nothing = Layout((), Ring(32, 1))
    return shown_in(next(iter(sent.values())).content, nothing).model


def shown_in(content: RecordDict, layout: Layout) -> Shown:
    """Return what a message shows a silo: every array and every word of text but the protocol's."""
    model: Arrays = {
        f"{name}/{kind}": vector_of(array)
        for name, record in arrays_in(content).items()
        for kind, array in record.items()
    }
    texts = [
        digest("record", name, str(dict(record)))
        for name, record in sorted(texts_in(content).items())
        if name != OWN
    ]
    return Shown.of(model, b"".join(texts), layout)


def ring_of(content: RecordDict) -> Ring:
    """Return the ring in which a message asks for words; RunError where it does not say."""
    own = texts_in(content)[OWN]
    try:
        return Ring(int(own["bits"]), int(own["silos"]))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"a message without bits and silos in its record {OWN}") from error


def put_lanes(content: RecordDict, lanes: Lanes) -> None:
    """Add the lanes of an upload."""
    content["words"] = ArrayRecord({lane: array_of([words]) for lane, words in lanes.items()})


def most_bytes(layout: Layout) -> int:
    """Return the bytes of an upload's arrays at most."""
    sizes = (layout.size(lane) * layout.ring_of(lane).dtype.itemsize for lane in layout.lanes)
    return sum(size + LONGEST_HEADER for size in sizes)


def get_lanes(content: RecordDict) -> Lanes:
    """Return the lanes that ``put_lanes`` added, read in place; RunError where they are damaged."""
    try:
        record = arrays_in(content)["words"]
        return {lane: vector_of(array) for lane, array in record.items()}  # type: ignore[misc]
    except Exception as error:  # bytes from elsewhere make NumPy's reader raise almost anything
        raise RunError("an upload without its words, or with damaged ones") from error


def put_own(content: RecordDict, **parts: bytes | int) -> None:
    """Add the protocol's own record."""
    content[OWN] = ConfigRecord({**parts})


def get_own(content: RecordDict, part: str) -> bytes:
    """Return bytes of the protocol's own record; RunError where they are missing."""
    record = texts_in(content).get(OWN)
    value = record.get(part) if record is not None else None
    if not isinstance(value, bytes):
        raise RunError(f"a message without {part} in its record {OWN}")
    return value


def tensors_of(sums: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return sums by name as tensors."""
    return {name: torch.from_numpy(array) for name, array in sums.items()}


def carrying(message: Message, **own: bytes | int) -> Message:
    """Return the message with the protocol's own record added, for one silo."""
    content = RecordDict(dict(message.content))
    put_own(content, **own)
    meta = message.metadata
    return Message(
        content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id
    )
