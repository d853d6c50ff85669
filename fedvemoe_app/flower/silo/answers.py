"""What a silo answers to a message: each step by its name, and a failure as an error reply.

What a step needs is imported inside it: the door opens before torch and transformers are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict

from fedvemoe_app.errors import FedVemoeError
from fedvemoe_app.flower.messages.consent import reports_in_full

REFUSED, BROKEN = 1000, 1001
"""Error codes of a reply: a silo that says why it did not do its part, and one that broke."""

WARM_UP = "warm_up"
PARTS = ("ahead", "part")
PROTOCOL = ("secagg_advertise", "secagg_share", "secagg_confirm", "secagg_unmask")


def answer(step: str, message: Message, context: Context) -> Message:
    """Return this silo's reply; what it must remember is in ``context.state`` afterwards."""
    own = _part if step in PARTS else _protocol if step in PROTOCOL else _phase
    own = _warm_up if step == WARM_UP else own
    return or_error(
        lambda: Message(own(step, message, context), reply_to=message), message, context
    )


def or_error(reply: Callable[[], Message], message: Message, context: Context) -> Message:
    """Return the reply; a failure becomes an error reply and costs only its part.

    The reason is for the server's eyes only where this silo reports in full.
    """
    try:
        return reply()
    except Exception as error:
        refused = isinstance(error, FedVemoeError)
        name = message.metadata.message_type
        logging.getLogger("flwr").error("%s: %s", name, error, exc_info=not refused)
        reason = str(error) if refused else f"{type(error).__name__}: {error}"
        if not reports_in_full(context):
            reason = f"{type(error).__name__}; the silo's own log says more"
        return Message(Error(REFUSED if refused else BROKEN, reason), reply_to=message)


def _phase(phase: str, message: Message, context: Context) -> RecordDict:
    """Do this silo's part of a phase; what it sums leaves in the form that was asked for."""
    from fedvemoe_app.flower.silo import parts as parts_silo
    from fedvemoe_app.flower.silo import phases
    from fedvemoe_app.flower.silo import secure as secure_silo

    content = parts_silo.complete(message.content, context)
    reply = getattr(phases, phase)(content, context)
    protected = secure_silo.protect(content, reply, context)
    return parts_silo.within_limit(protected, context)


def _protocol(step: str, message: Message, context: Context) -> RecordDict:
    """Do this silo's part of a secure sum that is the protocol's alone."""
    from fedvemoe_app.flower.silo import parts as parts_silo
    from fedvemoe_app.flower.silo import secure as secure_silo

    parts_silo.forget_reply(context)
    reply: RecordDict = getattr(secure_silo, step)(message.content, context)
    return reply


def _part(step: str, message: Message, context: Context) -> RecordDict:
    """Take or give a part of a large message."""
    from fedvemoe_app.flower.silo import parts as parts_silo

    reply: RecordDict = getattr(parts_silo, step)(message.content, context)
    return reply


def _warm_up(step: str, message: Message, context: Context) -> RecordDict:
    """Load what the phases need, while the server does the same."""
    from fedvemoe_app.flower.silo import parts as parts_silo
    from fedvemoe_app.flower.silo import phases
    from fedvemoe_app.flower.silo import secure as secure_silo

    del parts_silo, phases, secure_silo
    return RecordDict()
