"""The ClientApp: a thin door. A message in, this silo's step (``flower.phases``), a reply out.

What a handler needs is imported inside it: a deployment starts a process per message, and the
door must open before torch and transformers are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedvemoe_app.errors import FedVemoeError
from fedvemoe_app.flower.consent import reports_in_full

REFUSED, BROKEN = 1000, 1001
"""Error codes of a reply: a silo that says why it did not do its part, and one that broke."""

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this silo is, on which base and with which code."""
    return _answer("hello", message, context)


@app.query("secagg_advertise")
def secagg_advertise(message: Message, context: Context) -> Message:
    """Advertise keys for a secure sum."""
    return _protocol("secagg_advertise", message, context)


@app.query("secagg_share")
def secagg_share(message: Message, context: Context) -> Message:
    """Share the secrets of a secure sum."""
    return _protocol("secagg_share", message, context)


@app.query("secagg_confirm")
def secagg_confirm(message: Message, context: Context) -> Message:
    """Sign the survivors of a secure sum."""
    return _protocol("secagg_confirm", message, context)


@app.query("secagg_unmask")
def secagg_unmask(message: Message, context: Context) -> Message:
    """Help to take the masks off a secure sum."""
    return _protocol("secagg_unmask", message, context)


@app.query("ahead")
def ahead(message: Message, context: Context) -> Message:
    """Take a part of a large message that is still to come."""
    return _parts("ahead", message, context)


@app.query("part")
def part(message: Message, context: Context) -> Message:
    """Give a part of the last reply, which was too large for one message."""
    return _parts("part", message, context)


@app.evaluate()
def assess(message: Message, context: Context) -> Message:
    """Probe the bank received: E-step, and evaluation where asked."""
    return _answer("assess", message, context)


@app.query("sketch")
def sketch(message: Message, context: Context) -> Message:
    """Sketch this silo's gradient at the start."""
    return _answer("sketch", message, context)


@app.query("cluster")
def cluster(message: Message, context: Context) -> Message:
    """Join a centroid of each k-means restart."""
    return _answer("cluster", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train this silo's experts on the bank received last: M-step."""
    return _answer("train", message, context)


def _answer(phase: str, message: Message, context: Context) -> Message:
    """Do this silo's part of a phase; what it sums leaves in the form that was asked for."""

    def step() -> RecordDict:
        from fedvemoe_app.flower import parts_silo, phases, secure_silo

        content = parts_silo.complete(message.content, context)
        reply = getattr(phases, phase)(content, context)
        protected = secure_silo.protect(content, reply, context)
        return parts_silo.within_limit(protected, context)

    return _or_error(step, phase, message, context)


def _protocol(step: str, message: Message, context: Context) -> Message:
    """Do this silo's part of a secure sum that is the protocol's alone."""

    def own() -> RecordDict:
        from fedvemoe_app.flower import parts_silo, secure_silo

        parts_silo.forget_reply(context)
        reply: RecordDict = getattr(secure_silo, step)(message.content, context)
        return reply

    return _or_error(own, step, message, context)


def _parts(step: str, message: Message, context: Context) -> Message:
    """Take or give a part of a large message."""

    def own() -> RecordDict:
        from fedvemoe_app.flower import parts_silo

        reply: RecordDict = getattr(parts_silo, step)(message.content, context)
        return reply

    return _or_error(own, step, message, context)


def _or_error(
    step: Callable[[], RecordDict], name: str, message: Message, context: Context
) -> Message:
    """Reply with what ``step`` returns; a failure becomes an error reply and costs only its part.

    The reason is for the server's eyes only where this silo reports in full.
    """
    try:
        return Message(step(), reply_to=message)
    except Exception as error:
        refused = isinstance(error, FedVemoeError)
        logging.getLogger("flwr").error("%s: %s", name, error, exc_info=not refused)
        reason = str(error) if refused else f"{type(error).__name__}: {error}"
        if not reports_in_full(context):
            reason = f"{type(error).__name__}; the silo's own log says more"
        return Message(Error(REFUSED if refused else BROKEN, reason), reply_to=message)
