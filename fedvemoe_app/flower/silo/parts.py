"""Large messages in parts: a silo's end, where pieces wait in its Flower context.

What came ahead waits for its message; what did not fit into a reply (of a masked one: masked words
alone) waits to be fetched. Each is gone when it was used, and with the next phase.
"""

from __future__ import annotations

from flwr.app import Context, RecordDict

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.messages.parts import (
    MEGABYTE,
    PLAN,
    Plan,
    forget,
    keep,
    piece_in,
    put_piece,
    split,
    whole,
)
from fedvemoe_app.flower.messages.wire import arrays_in, get_facts

AHEAD, REPLY = "parts.ahead", "parts.reply"
"""Where pieces wait in a silo's state."""


def ahead(content: RecordDict, context: Context) -> RecordDict:
    """Keep a piece of a message that is still to come; another message's are dropped."""
    key, id_ = _named(content)
    others = _kept(context, AHEAD)
    pieces = {name: data for name, data in others.items() if name.startswith(f"{id_}/")}
    keep(context.state, AHEAD, {**pieces, key: piece_in(content)})
    return RecordDict()


def complete(content: RecordDict, context: Context) -> RecordDict:
    """Return a phase's message whole; what waits of earlier ones is dropped.

    Raises
    ------
    RunError
        Where a piece did not come, or came damaged.
    """
    pieces = _kept(context, AHEAD)
    forget(context.state, AHEAD)
    forget_reply(context)
    plan = Plan.of(content)
    if plan is None:
        return content
    here = len(piece_in(content)) + sum(map(len, pieces.values()))
    if plan.total > here:  # before so much memory is taken
        raise RunError(f"a message of {plan.total} bytes of which {here} came: parts are missing")
    return whole(content, plan, lambda number: _found(pieces, plan, number))


def _found(pieces: dict[str, bytes], plan: Plan, number: int) -> bytes:
    data = pieces.get(f"{plan.id}/{number}")
    if data is None:
        raise RunError(
            f"part {number + 1} of {len(plan.hashes)} of this message did not come ahead"
        )
    return data


def within_limit(reply: RecordDict, context: Context) -> RecordDict:
    """Return a reply as it may travel: what exceeds ``message-mb`` waits to be fetched."""
    limit = int(RunConfig.from_flat(context.run_config).rounds.message_mb * MEGABYTE)
    first, rest = split(reply, limit)
    keep(context.state, REPLY, {_named(content)[0]: piece_in(content) for content in rest})
    return first


def forget_reply(context: Context) -> None:
    """Drop what was not fetched of the last reply."""
    forget(context.state, REPLY)


def part(content: RecordDict, context: Context) -> RecordDict:
    """Give away a piece of the last phase's reply, once."""
    key, _ = _named(content)
    pieces = _kept(context, REPLY)
    if key not in pieces:
        raise RunError("this part is not here: it was fetched before, or is of another reply")
    reply = RecordDict()
    put_piece(reply, pieces.pop(key))
    keep(context.state, REPLY, pieces)
    return reply


def _named(content: RecordDict) -> tuple[str, str]:
    """Return a piece's key, and its message's id."""
    match get_facts(content, PLAN):
        case {"id": str(id_), "number": int(number)}:
            return f"{id_}/{number}", id_
    raise RunError("a message that does not say which part it is about")


def _kept(context: Context, record: str) -> dict[str, bytes]:
    kept = arrays_in(context.state).get(record)
    return {name: array.data for name, array in kept.items()} if kept is not None else {}
