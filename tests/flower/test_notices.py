"""What the server says of the bank's structure arrives as it left, or is refused in words."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.notices import get_call, get_notice, put_call, put_notice
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts, put_tensors

PLAIN = Notice(
    round=3,
    slots=(0, 4),
    since=(0, 2),
    axis=torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64),
    level=torch.tensor([0.25, 0.0], dtype=torch.float64),
)
MERGING = Notice(
    *(7, (1, 2, 5), (0, 0, 6), torch.ones(3, 2).double(), torch.zeros(3).double()),
    trial=2,
    leaving=1,
    into=0,
    candidate={"x.A": torch.randn(1, 2, 5), "x.B": torch.randn(1, 5, 2)},
)


@pytest.mark.parametrize("notice", [PLAIN, MERGING])
def test_a_notice_arrives_bit_for_bit(notice: Notice) -> None:
    content = RecordDict()
    assert get_notice(content) is None
    put_notice(content, notice)
    found = get_notice(content)
    assert found is not None
    assert found.candidate.keys() == notice.candidate.keys()
    for name, tensor in notice.candidate.items():
        assert torch.equal(found.candidate[name], tensor)
    for field in fields(Notice):
        mine, theirs = getattr(notice, field.name), getattr(found, field.name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        elif field.name != "candidate":
            assert mine == theirs


@pytest.mark.parametrize("call", [Call(), Call(adopt=True), Call(False, 3, 1)])
def test_a_call_arrives(call: Call) -> None:
    content = RecordDict()
    assert get_call(content) is None
    put_call(content, call)
    assert get_call(content) == call


@pytest.mark.parametrize("facts", [[], {}, {"round": 1}, None, {"round": "x", "slots": []}])
def test_damaged_facts_of_a_notice_are_refused(facts: object) -> None:
    content = RecordDict()
    put_notice(content, PLAIN)
    put_facts(content, "notice.facts", facts)
    with pytest.raises(RunError, match="record notice of a message is damaged"):
        get_notice(content)


@pytest.mark.parametrize("missing", ["axis", "level"])
def test_a_notice_without_one_of_its_tensors_is_refused(missing: str) -> None:
    content = RecordDict()
    put_notice(content, PLAIN)
    kept = {n: t for n, t in get_tensors(content, "notice").items() if n != missing}
    put_tensors(content, "notice", kept)
    with pytest.raises(RunError, match="record notice of a message is damaged"):
        get_notice(content)


def test_a_notice_without_its_facts_is_refused() -> None:
    content = RecordDict()
    put_notice(content, PLAIN)
    del content["notice.facts"]
    with pytest.raises(RunError, match=r"without its record notice\.facts"):
        get_notice(content)


@pytest.mark.parametrize("facts", [[], "call", 3, {"parents": 1}])
def test_a_damaged_call_is_refused(facts: object) -> None:
    content = RecordDict()
    put_facts(content, "call", facts)
    with pytest.raises(RunError, match="record call of a message is damaged"):
        get_call(content)


def test_a_call_that_is_no_json_is_refused() -> None:
    content = RecordDict({"call": ConfigRecord({"json": "{"})})
    with pytest.raises(RunError, match="record call of a message is damaged"):
        get_call(content)
    content = RecordDict()
    put_call(content, Call())
    assert get_facts(content, "call") == {"adopt": False, "parent": None, "side": 0}
