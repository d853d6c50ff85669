"""From arrays to words and back; canaries; what accumulators accept.

Removed by hand, each turned a test here red: the canary check; the check of names and shapes; the
check of an upload's lanes, types and sizes; the limit of n_max uploads; a step per slot.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.errors import SecAggAbort, SecAggRefusal
from fedvemoe_app.secagg.layout import Accumulator, Field, Layout
from fedvemoe_app.secagg.ring import Ring
from tests.secagg.consortium import arrays_for, layout_for, seed_of, uploads_of

RING = Ring(32, 4)
LAYOUT = layout_for(RING)


def test_a_sum_comes_back_within_a_step_per_silo() -> None:
    sums = Accumulator(LAYOUT)
    for upload in uploads_of(LAYOUT, ["a", "b", "c"]).values():
        sums.add(upload)
    total = sums.total()
    exact = {key: sum(arrays_for(i)[key] for i in range(3)) for key in ("delta", "mass")}
    errors = np.abs(total["delta"] - exact["delta"])
    assert (errors[0] < 3 * 0.01).all()
    assert (errors[1] < 3 * 0.02).all()
    assert np.allclose(total["mass"], exact["mass"], rtol=0, atol=3 * 2.0**-25)


@pytest.mark.parametrize(("bits", "in_place"), [(16, False), (32, True)])
def test_a_sum_becomes_numbers_in_its_own_memory_where_they_fit(bits: int, in_place: bool) -> None:
    """Of a bank that fills gigabytes the server holds the sum once; counts keep every digit."""
    layout = layout_for(Ring(bits, 4), size=70_001)
    sums = Accumulator(layout)
    arrays = {**arrays_for(0, 70_001), "mass": np.array([1.0, 2.0**30 + 1, 3.0])}
    for name in "ab":
        sums.add(layout.encode(arrays, seed_of(name)))
    words, total = sums.lanes["tensors"], sums.total()
    assert np.shares_memory(total["delta"], words) == in_place
    assert total["delta"].dtype == np.float32
    assert np.abs(total["delta"] - 2 * arrays["delta"]).max() < 2 * 0.02 + 1e-6
    assert total["mass"].tolist() == (2 * arrays["mass"]).tolist()


def test_each_slot_has_its_own_step() -> None:
    layout = Layout((Field("x", (2, 1), "tensors", (1.0, 1e-3)),), RING)
    lanes = layout.encode({"x": np.array([[5.0], [5.0]])}, b"seed" * 4)
    assert lanes["tensors"][:2].tolist() == [5, 5000]


def test_words_depend_on_the_dither_seed_alone() -> None:
    first, again, other = (
        LAYOUT.encode(arrays_for(0), seed)["tensors"] for seed in (b"a" * 16, b"a" * 16, b"b" * 16)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_scalars_integers_and_empty_lanes() -> None:
    layout = Layout((Field("n", (), "statistics"), Field("none", (0, 3), "statistics")), RING)
    lanes = layout.encode({"n": np.array(3), "none": np.zeros((0, 3))}, b"seed" * 4)
    assert lanes.keys() == {"statistics"}
    found = layout.decode(lanes)
    assert found["n"].shape == ()
    assert float(found["n"]) == 3.0
    assert found["none"].shape == (0, 3)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"delta": np.zeros((2, 10))},
        {"delta": np.zeros((2, 10)), "mass": np.zeros(4)},
        {"delta": np.zeros((2, 10)), "mass": np.zeros(3), "more": np.zeros(1)},
    ],
)
def test_other_names_or_shapes_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(SecAggRefusal, match="differ from the layout"):
        LAYOUT.encode(arrays, b"seed" * 4)


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(SecAggRefusal, match="delta: numbers that are not finite"):
        LAYOUT.encode({**arrays_for(0), "delta": np.full((2, 10), np.nan)}, b"seed" * 4)
    with pytest.raises(SecAggRefusal, match="mass: statistics must be"):
        LAYOUT.encode({**arrays_for(0), "mass": np.full(3, 1e30)}, b"seed" * 4)


@pytest.mark.parametrize("lane", ["tensors", "statistics"])
@pytest.mark.parametrize("word", range(1, 5))
def test_a_wrong_canary_voids_the_sum(lane: str, word: int) -> None:
    sums = Accumulator(LAYOUT)
    for upload in uploads_of(LAYOUT, ["a", "b", "c"]).values():
        sums.add(upload)
    sums.lanes[lane][-word] += 1
    with pytest.raises(SecAggAbort, match=f"the sum of {lane} does not add up"):
        sums.total()


def test_uploads_that_do_not_fit_add_nothing() -> None:
    sums = Accumulator(LAYOUT)
    good = LAYOUT.encode(arrays_for(0), seed_of("a"))
    bad = [
        {"tensors": good["tensors"]},
        {**good, "more": good["tensors"]},
        {**good, "tensors": good["tensors"].astype("<u8")},
        {**good, "tensors": good["tensors"].astype("<i4")},
        {**good, "tensors": good["tensors"][:-1]},
        {**good, "tensors": good["tensors"].reshape(1, -1)},
    ]
    for upload in bad:
        with pytest.raises(SecAggRefusal, match="differs from the layout"):
            sums.add(upload)
    assert sums.silos == 0
    assert not any(words.any() for words in sums.lanes.values())


def test_more_uploads_than_the_ring_holds_are_refused() -> None:
    sums = Accumulator(LAYOUT)
    upload = LAYOUT.encode(arrays_for(0), seed_of("a"))
    for _ in range(RING.n_max):
        sums.add(upload)
    with pytest.raises(SecAggRefusal, match="n_max 4"):
        sums.add(upload)


def test_hash_tells_layouts_apart() -> None:
    field = Field("x", (2, 3), "tensors", (0.1, 0.2))
    base = Layout((field,), RING)
    others = [
        Layout((replace(field, name="y"),), RING),
        Layout((replace(field, shape=(2, 4)),), RING),
        Layout((replace(field, steps=(0.1, 0.20001)),), RING),
        Layout((Field("x", (2, 3), "statistics", (0.1, 0.2)),), RING),
        Layout((field,), Ring(32, 5)),
        Layout((field,), Ring(16, 4)),
    ]
    assert len({layout.hash for layout in (base, *others)}) == 7


def test_impossible_layouts_name_the_field() -> None:
    with pytest.raises(SettingError, match="field x: 3 steps"):
        Field("x", (2, 3), "tensors", (1.0, 1.0, 1.0))
    for step in (0.0, -1.0, float("nan"), float("inf"), 1e-320):
        with pytest.raises(SettingError, match="field x: steps must lie"):
            Field("x", (2, 3), "tensors", (step,))
    with pytest.raises(SettingError, match="two fields have one name"):
        Layout((Field("x", (1,), "tensors"), Field("x", (2,), "tensors")), RING)
