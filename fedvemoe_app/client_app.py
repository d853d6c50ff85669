"""The ClientApp: a thin door. A message in, this silo's step (``flower.phases``), a reply out.

What a handler needs is imported inside it: a deployment starts a process per message, and the
door must open before torch and transformers are loaded.
"""

from __future__ import annotations

import logging
from importlib import import_module

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedvemoe_app.errors import FedVemoeError

REFUSED, BROKEN = 1000, 1001
"""Error codes of a reply: a silo that says why it did not do its part, and one that broke."""

PHASES, SECURE = "fedvemoe_app.flower.phases", "fedvemoe_app.flower.secure_silo"

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this silo is, on which base and with which code."""
    return _answer("hello", message, context)


@app.query("secagg_advertise")
def secagg_advertise(message: Message, context: Context) -> Message:
    """Advertise keys for a secure sum."""
    return _answer("secagg_advertise", message, context, SECURE)


@app.query("secagg_share")
def secagg_share(message: Message, context: Context) -> Message:
    """Share the secrets of a secure sum."""
    return _answer("secagg_share", message, context, SECURE)


@app.query("secagg_confirm")
def secagg_confirm(message: Message, context: Context) -> Message:
    """Sign the survivors of a secure sum."""
    return _answer("secagg_confirm", message, context, SECURE)


@app.query("secagg_unmask")
def secagg_unmask(message: Message, context: Context) -> Message:
    """Help to take the masks off a secure sum."""
    return _answer("secagg_unmask", message, context, SECURE)


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


def _answer(phase: str, message: Message, context: Context, module: str = PHASES) -> Message:
    """Run a phase; a failure becomes an error reply, so that it costs only this silo's part."""
    try:
        content = getattr(import_module(module), phase)(message.content, context)
        if module == PHASES:
            content = import_module(SECURE).protect(message.content, content, context)
        return Message(content, reply_to=message)
    except FedVemoeError as error:
        return Message(Error(REFUSED, str(error)), reply_to=message)
    except Exception as error:
        logging.getLogger("flwr").exception("phase %s failed", phase)
        return Message(Error(BROKEN, f"{type(error).__name__}: {error}"), reply_to=message)
