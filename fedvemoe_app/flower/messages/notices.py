"""Lifecycle orders on the wire: what the server tells silos of the bank's structure."""

from __future__ import annotations

from dataclasses import asdict

from flwr.app import RecordDict

from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors, put_facts, put_tensors

CANDIDATE = "candidate/"
FACTS = ("round", "slots", "since", "trial", "leaving", "into")


def put_notice(content: RecordDict, notice: Notice) -> None:
    """Add the notice that comes with a bank."""
    facts = {key: getattr(notice, key) for key in FACTS}
    put_facts(content, "notice.facts", facts)
    candidate = {f"{CANDIDATE}{name}": tensor for name, tensor in notice.candidate.items()}
    put_tensors(content, "notice", {"axis": notice.axis, "level": notice.level, **candidate})


def get_notice(content: RecordDict) -> Notice | None:
    """Return the notice of a message, None where it has none; RunError where it is damaged."""
    if "notice" not in content:
        return None
    facts, tensors = get_facts(content, "notice.facts"), get_tensors(content, "notice")
    candidate = {n.removeprefix(CANDIDATE): x for n, x in tensors.items() if CANDIDATE in n}
    try:
        return Notice(
            round=int(facts["round"]),
            slots=tuple(facts["slots"]),
            since=tuple(facts["since"]),
            axis=tensors["axis"],
            level=tensors["level"],
            trial=facts["trial"],
            leaving=facts["leaving"],
            into=facts["into"],
            candidate=candidate,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError("record notice of a message is damaged") from error


def put_call(content: RecordDict, call: Call) -> None:
    """Add the call that comes with an order to train."""
    put_facts(content, "call", asdict(call))


def get_call(content: RecordDict) -> Call | None:
    """Return the call of a message, None where it has none; RunError where it is damaged."""
    if "call" not in content:
        return None
    try:
        return Call(**get_facts(content, "call"))
    except TypeError as error:
        raise RunError("record call of a message is damaged") from error
