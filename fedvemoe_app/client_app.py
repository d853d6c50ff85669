"""The ClientApp: a thin door: a message in, a step (``flower.silo.answers``), a reply out.

A deployment starts a process per message. The step is done in it, or by the silo's resident worker,
which has torch and the base in memory: the door loads neither.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvemoe_app.flower.silo.by_worker import reply_to

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this silo is, on which base and with which code."""
    return reply_to("hello", message, context)


@app.query("warm_up")
def warm_up(message: Message, context: Context) -> Message:
    """Get ready in a simulation, while the server does."""
    return reply_to("warm_up", message, context)


@app.query("secagg_advertise")
def secagg_advertise(message: Message, context: Context) -> Message:
    """Advertise keys for a secure sum."""
    return reply_to("secagg_advertise", message, context)


@app.query("secagg_share")
def secagg_share(message: Message, context: Context) -> Message:
    """Share the secrets of a secure sum."""
    return reply_to("secagg_share", message, context)


@app.query("secagg_confirm")
def secagg_confirm(message: Message, context: Context) -> Message:
    """Sign the survivors of a secure sum."""
    return reply_to("secagg_confirm", message, context)


@app.query("secagg_unmask")
def secagg_unmask(message: Message, context: Context) -> Message:
    """Help to take the masks off a secure sum."""
    return reply_to("secagg_unmask", message, context)


@app.query("ahead")
def ahead(message: Message, context: Context) -> Message:
    """Take a part of a large message that is still to come."""
    return reply_to("ahead", message, context)


@app.query("part")
def part(message: Message, context: Context) -> Message:
    """Give a part of the last reply, which was too large for one message."""
    return reply_to("part", message, context)


@app.evaluate()
def assess(message: Message, context: Context) -> Message:
    """Probe the bank received: E-step, and evaluation where asked."""
    return reply_to("assess", message, context)


@app.query("sketch")
def sketch(message: Message, context: Context) -> Message:
    """Sketch this silo's gradient at the start."""
    return reply_to("sketch", message, context)


@app.query("cluster")
def cluster(message: Message, context: Context) -> Message:
    """Join a centroid of each k-means restart."""
    return reply_to("cluster", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train this silo's experts on the bank received last: M-step."""
    return reply_to("train", message, context)
