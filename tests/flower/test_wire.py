"""The wire: what goes in comes out bit for bit, and what is damaged is refused in words."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as some
from torch import Tensor

from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import (
    array_of,
    get_bank,
    get_belief,
    get_facts,
    get_tensors,
    put_bank,
    put_belief,
    put_facts,
    put_tensors,
    size_in_bytes,
)

SHAPES = some.lists(some.integers(0, 4), max_size=3)
FLOATS = some.floats(allow_nan=False)
DTYPES = some.sampled_from([torch.float32, torch.float64, torch.bool])


def sent(content: RecordDict) -> RecordDict:
    """Return the content as it arrives at the other end of a network."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    message = Message(content, dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "m"
    return message_from_proto(message_to_proto(message)).content


def random_tensor(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Return any bit patterns, NaNs and infinities among them."""
    rng = np.random.default_rng(seed)
    if dtype is torch.bool:
        return torch.from_numpy(rng.integers(0, 2, shape).astype(bool))
    kind = {torch.float32: np.uint32, torch.float64: np.uint64}[dtype]
    bits = rng.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    return torch.from_numpy(np.asarray(bits).view(str(dtype).removeprefix("torch.")))


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes()


@runs(deadline=None, max_examples=60)
@given(some.dictionaries(some.text(max_size=8), some.tuples(SHAPES, DTYPES, some.integers(0, 99))))
def test_tensors_arrive_bit_for_bit(drawn: dict[str, tuple[list[int], torch.dtype, int]]) -> None:
    tensors = {name: random_tensor(*what) for name, what in drawn.items()}
    content = RecordDict()
    put_tensors(content, "sums", tensors)
    arrived = get_tensors(sent(content), "sums")
    assert {name: bits(t) for name, t in arrived.items()} == {
        name: bits(t) for name, t in tensors.items()
    }


def test_a_view_is_sent_as_what_it_shows_and_not_as_its_memory() -> None:
    tensor = torch.arange(12.0).view(3, 4).T
    content = RecordDict()
    put_tensors(content, "x", {"view": tensor, "part": tensor[1]})
    arrived = get_tensors(content, "x")
    assert torch.equal(arrived["view"], tensor)
    assert torch.equal(arrived["part"], tensor[1])


def test_a_vector_is_written_as_flower_writes_it() -> None:
    tensors = [torch.arange(6.0).view(2, 3).T, torch.tensor(7.0), torch.arange(9.0)[::2]]
    vector = torch.cat([tensor.reshape(-1) for tensor in tensors]).numpy()
    ours, flowers = array_of([tensor.numpy() for tensor in tensors]), Array(vector)
    assert ours == flowers


def test_a_bank_is_copied_once_on_its_way_out() -> None:
    tensors = {str(i): torch.zeros(1000, 100) for i in range(20)}
    tracemalloc.start()
    put_tensors(RecordDict(), "x", tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * 20 * 100_000 * 4


def test_many_tensors_are_few_arrays() -> None:
    content = RecordDict()
    put_tensors(content, "x", {str(i): torch.ones(2) for i in range(500)})
    assert len(content.array_records["x"]) == 1


def test_what_arrives_can_be_written_to_and_belongs_to_nobody_else() -> None:
    content = RecordDict()
    put_tensors(content, "x", {"a": torch.zeros(3)})
    get_tensors(content, "x")["a"].fill_(7.0)
    assert torch.equal(get_tensors(content, "x")["a"], torch.zeros(3))


@runs(deadline=None, max_examples=40)
@given(
    some.recursive(
        some.none()
        | some.booleans()
        | some.integers()
        | some.text()
        | some.floats(allow_nan=False),
        lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner),
        max_leaves=8,
    )
)
def test_facts_arrive_as_they_were(facts: object) -> None:
    content = RecordDict()
    put_facts(content, "order", facts)
    assert get_facts(sent(content), "order") == facts


def test_a_bank_and_a_belief_arrive_as_they_were() -> None:
    generator = torch.Generator().manual_seed(1)
    experts = {
        "layer.A": torch.randn(3, 2, 4, generator=generator),
        "layer.B": torch.zeros(3, 4, 2),
    }
    bank = Bank.start(experts, alive=2)
    belief = Belief(bank.prior, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 1 / 3)
    content = RecordDict()
    put_bank(content, bank)
    put_belief(content, belief)
    arrived, believed = get_bank(sent(content)), get_belief(sent(content))
    assert {n: bits(t) for n, t in arrived.experts.items()} == {
        n: bits(t) for n, t in experts.items()
    }
    assert (bits(arrived.alive), bits(arrived.prior)) == (bits(bank.alive), bits(bank.prior))
    assert (bits(believed.predict), bits(believed.train)) == (
        bits(belief.predict),
        bits(belief.train),
    )
    assert believed.share == belief.share


def healthy() -> RecordDict:
    content = RecordDict()
    put_tensors(content, "x", {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2).bool()})
    return content


def index(content: RecordDict, found: object) -> None:
    content["x.index"] = ConfigRecord({"json": json.dumps(found)})


def array(content: RecordDict, kind: str, values: np.ndarray) -> None:
    arrays = dict(content.array_records["x"].items())
    content["x"] = ArrayRecord({**arrays, kind: Array(values)})


def raw(content: RecordDict, data: bytes, kind: str = "numpy.ndarray") -> None:
    arrays = dict(content.array_records["x"].items())
    broken = Array(dtype="float32", shape=(6,), stype=kind, data=data)
    content["x"] = ArrayRecord({**arrays, "float32": broken})


DAMAGE: dict[str, Callable[[RecordDict], object]] = {
    "no index": lambda c: c.pop("x.index"),
    "no arrays": lambda c: c.pop("x"),
    "arrays are facts": lambda c: c.__setitem__("x", ConfigRecord({"json": "1"})),
    "index is arrays": lambda c: c.__setitem__("x.index", ArrayRecord({})),
    "index without json": lambda c: c.__setitem__("x.index", ConfigRecord({"other": 1})),
    "index is not json": lambda c: c.__setitem__("x.index", ConfigRecord({"json": "{"})),
    "index is bytes": lambda c: c.__setitem__("x.index", ConfigRecord({"json": b"{}"})),
    "index is a list": lambda c: index(c, [1, 2]),
    "index is a number": lambda c: index(c, 3),
    "entry is a number": lambda c: index(c, {"a": 3}),
    "entry is short": lambda c: index(c, {"a": ["float32"]}),
    "shape is text": lambda c: index(c, {"a": ["float32", "23"], "b": ["bool", [2]]}),
    "shape is null": lambda c: index(c, {"a": ["float32", None], "b": ["bool", [2]]}),
    "shape holds text": lambda c: index(c, {"a": ["float32", ["6"]], "b": ["bool", [2]]}),
    "shape holds floats": lambda c: index(c, {"a": ["float32", [6.0]], "b": ["bool", [2]]}),
    "shape is negative": lambda c: index(c, {"a": ["float32", [-2, -3]], "b": ["bool", [2]]}),
    "shape holds minus one": lambda c: index(
        c, {"a": ["float32", [-1]], "c": ["float32", [7]], "b": ["bool", [2]]}
    ),
    "shape is too large": lambda c: index(c, {"a": ["float32", [2, 4]], "b": ["bool", [2]]}),
    "unknown format": lambda c: index(c, {"a": ["float128", [6]], "b": ["bool", [2]]}),
    "format is a list": lambda c: index(c, {"a": [["float32"], [6]], "b": ["bool", [2]]}),
    "format missing": lambda c: index(c, {"a": ["float64", [6]], "b": ["bool", [2]]}),
    "too few values": lambda c: array(c, "float32", np.zeros(5, np.float32)),
    "other values": lambda c: array(c, "float32", np.zeros(6, np.float64)),
    "not a vector": lambda c: array(c, "float32", np.zeros((2, 3), np.float32)),
    "texts": lambda c: array(c, "float32", np.array(["a"] * 6)),
    "torn bytes": lambda c: raw(c, b"\x93NUMPY"),
    "no bytes": lambda c: raw(c, b""),
    "strange serialisation": lambda c: raw(c, b"1", "pickle"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors_are_refused_as_a_run_error(damage: str) -> None:
    content = healthy()
    DAMAGE[damage](content)
    with pytest.raises(RunError, match="x"):
        get_tensors(content, "x")


@pytest.mark.parametrize("missing", ["experts", "bank.index", "bank"])
def test_half_a_bank_is_refused(missing: str) -> None:
    content = RecordDict()
    put_bank(content, Bank.start({"a": torch.zeros(2, 2)}, alive=1))
    del content[missing]
    with pytest.raises(RunError):
        get_bank(content)


@pytest.mark.parametrize("fields", [{}, {"alive": torch.ones(2).bool()}, {"other": torch.ones(1)}])
def test_other_fields_are_no_bank_and_no_belief(fields: dict[str, Tensor]) -> None:
    content = RecordDict()
    put_tensors(content, "experts", {"a": torch.zeros(2, 2)})
    put_tensors(content, "bank", fields)
    put_tensors(content, "belief", fields)
    with pytest.raises(RunError, match="bank"):
        get_bank(content)
    with pytest.raises(RunError, match="belief"):
        get_belief(content)


@pytest.mark.parametrize("empty", ["", b"", []])
def test_an_empty_text_has_a_size(empty: str | bytes | list[int]) -> None:
    """Flower's own count raises, and a silo could end the run with it."""
    content = RecordDict({"x": ConfigRecord({"key": empty})})
    assert size_in_bytes(content) == 3


def test_size_counts_values_and_facts() -> None:
    content = RecordDict()
    put_tensors(content, "x", {"a": torch.zeros(1000)})
    assert 4000 < size_in_bytes(content) < 4400
    before = size_in_bytes(content)
    put_facts(content, "report", "a" * 1000)
    assert 1000 < size_in_bytes(content) - before < 1100
