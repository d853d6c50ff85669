"""Words as records, and what a message shows a silo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import put_facts, put_tensors
from fedvemoe_app.flower.messages.words import (
    KAPPA,
    OWN,
    get_lanes,
    get_own,
    layout_of,
    most_bytes,
    put_lanes,
    put_own,
    ring_of,
    shown_in,
)
from fedvemoe_app.secagg.ring import Ring
from tests.flower.small_sums import SHAPES, TEMPLATE, numbers

RING = Ring(32, 4)
LAYOUT = layout_of(TEMPLATE, RING)


def test_large_tensors_have_a_step_for_each_expert_and_the_rest_is_statistics() -> None:
    layout = layout_of(Template(SHAPES, {"delta": [0.1, 0.3]}), RING)
    fields = {field.name: field for field in layout.fields}
    assert list(fields) == list(SHAPES)
    assert {name: field.lane for name, field in fields.items()} == {
        "count": "statistics",
        "mass": "statistics",
        "delta": "tensors",
    }
    assert fields["delta"].steps == tuple(KAPPA[32] * rms / RING.qmax for rms in (0.1, 0.3))


def test_short_words_have_a_coarser_step_and_half_the_bytes() -> None:
    layout = layout_of(TEMPLATE, Ring(16, 4))
    (delta,) = (field for field in layout.fields if field.lane == "tensors")
    assert delta.steps == tuple(KAPPA[16] * 0.1 / Ring(16, 4).qmax for _ in range(2))
    one, other = (found.size("tensors") * found.ring.dtype.itemsize for found in (layout, LAYOUT))
    assert 2 * one == other
    assert most_bytes(layout) < most_bytes(LAYOUT)


def test_lanes_travel() -> None:
    lanes = LAYOUT.encode({n: t.numpy() for n, t in numbers(0).items()}, bytes(16))
    content = RecordDict()
    put_lanes(content, lanes)
    found = get_lanes(content)
    assert found.keys() == lanes.keys()
    for lane, words in found.items():
        np.testing.assert_array_equal(words, lanes[lane])
        assert words.dtype == lanes[lane].dtype
        assert not words.flags.owndata  # read where it lies


def damaged() -> RecordDict:
    array = Array(np.zeros(3, "<u4"))
    array.data = array.data[:20]
    content = RecordDict()
    content["words"] = ArrayRecord({"tensors": array})
    return content


@pytest.mark.parametrize("make", [RecordDict, damaged])
def test_missing_or_damaged_words_are_an_error(make: Callable[[], RecordDict]) -> None:
    with pytest.raises(RunError, match="without its words, or with damaged ones"):
        get_lanes(make())


def test_the_protocols_own_record() -> None:
    content = RecordDict()
    put_own(content, request=b"abc", bits=32, silos=4)
    assert get_own(content, "request") == b"abc"
    assert ring_of(content) == RING
    for missing in ("reply", "bits"):
        with pytest.raises(RunError, match=f"without {missing} in its record {OWN}"):
            get_own(content, missing)
    with pytest.raises(RunError, match="without request"):
        get_own(RecordDict(), "request")


@pytest.mark.parametrize("own", [{}, {"bits": 32}, {"bits": "many", "silos": 4}])
def test_a_message_must_say_its_ring(own: dict[str, int | str]) -> None:
    content = RecordDict()
    content[OWN] = ConfigRecord({**own})
    with pytest.raises(RunError, match="without bits and silos"):
        ring_of(content)


def message() -> RecordDict:
    content = RecordDict()
    put_tensors(content, "experts", {"x": torch.ones(3), "y": torch.zeros(2)})
    put_facts(content, "order", {"round": 1})
    TEMPLATE.put(content)
    put_own(content, inbox=b"for silo-00")
    return content


def shown(change: Callable[[RecordDict], None] = lambda content: None) -> bytes:
    content = message()
    change(content)
    return shown_in(content, LAYOUT).hash


def own_part(content: RecordDict) -> None:
    put_own(content, inbox=b"for silo-01")


def other_value(content: RecordDict) -> None:
    put_tensors(content, "experts", {"x": torch.ones(3), "y": torch.tensor([0.0, 1e-30])})


def other_split(content: RecordDict) -> None:
    put_tensors(content, "experts", {"x": torch.ones(2), "y": torch.tensor([1.0, 0, 0])})


def other_order(content: RecordDict) -> None:
    put_facts(content, "order", {"round": 2})


def renamed(content: RecordDict) -> None:
    content["held"] = content["experts"]
    del content["experts"]


def more(content: RecordDict) -> None:
    put_facts(content, "more", {})


def less(content: RecordDict) -> None:
    del content["order"]


def test_what_differs_between_silos_is_the_protocols_own_part_alone() -> None:
    assert shown() == shown(own_part)


@pytest.mark.parametrize("change", [other_value, other_split, other_order, renamed, more, less])
def test_anything_else_that_differs_shows(change: Callable[[RecordDict], None]) -> None:
    assert shown() != shown(change)


def test_so_does_another_layout() -> None:
    other = layout_of(Template(SHAPES, {"delta": [0.1, 0.1001]}), RING)
    assert shown_in(message(), LAYOUT).hash != shown_in(message(), other).hash
    assert LAYOUT.hash != layout_of(TEMPLATE, Ring(32, 5)).hash
