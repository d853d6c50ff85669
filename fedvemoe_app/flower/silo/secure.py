"""Secure sums on Flower's message API: a silo's end.

The protocol's state lies in the silo's Flower context, sealed under its identity key. What a silo
accepts is its own business: identity, roster and the privacy modes it takes part in come from its
node config, never from the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ConfigRecord, Context, RecordDict
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.messages.wire import get_tensors, put_tensors, texts_in
from fedvemoe_app.flower.messages.words import (
    OWN,
    get_own,
    layout_of,
    put_lanes,
    put_own,
    ring_of,
    shown_in,
)
from fedvemoe_app.flower.silo.ledgers import lasting_ledger
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.flower.silo.noised import admit, noised
from fedvemoe_app.secagg.client import Client, Member
from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.keys import derive
from fedvemoe_app.secagg.layout import Lanes, Layout
from fedvemoe_app.secagg.roster import Identity, Roster, read_roster
from fedvemoe_app.secagg.simulated import simulated_identity, simulated_roster

STATE = "secagg"


def secagg_advertise(content: RecordDict, context: Context) -> RecordDict:
    """Advertise fresh keys for a session."""
    with _opened(context) as client:
        return _replying(reply=client.advertise(get_own(content, "request")))


def secagg_share(content: RecordDict, context: Context) -> RecordDict:
    """Share this silo's secrets of a session among its peers."""
    with _opened(context) as client:
        return _replying(reply=client.share(get_own(content, "request")))


def secagg_confirm(content: RecordDict, context: Context) -> RecordDict:
    """Sign who survived."""
    with _opened(context) as client:
        return _replying(reply=client.confirm(get_own(content, "request")))


def secagg_unmask(content: RecordDict, context: Context) -> RecordDict:
    """Give away one share of each peer's secrets; share own ones of the next session."""
    with _opened(context) as client:
        revealed = client.unmask(get_own(content, "request"))
        adverts = get_own(content, "adverts")
        return _replying(reply=revealed, shares=_next_shares(client, adverts))


def _next_shares(client: Client, adverts: bytes) -> bytes:
    """Return shares for the next session; none where it is refused: this sum goes on."""
    try:
        return client.share(adverts) if adverts else b""
    except SecAggRefusal:
        return b""


def protect(asked: RecordDict, reply: RecordDict, context: Context) -> RecordDict:
    """Return a phase's reply as it may leave: its sums in the form that was asked for.

    Raises
    ------
    RunError
        Where this silo does not take part in sums of that form.
    """
    admit(context)
    if "template" not in asked:
        if get_tensors(reply, "sums"):
            NodeSettings.of(context.node_config).policy.admit("none")
        return reply
    template = Template.get(asked)
    sums = template.conform(get_tensors(reply, "sums"))
    protected = RecordDict({name: reply[name] for name in reply if not name.startswith("sums")})
    if OWN not in asked:
        NodeSettings.of(context.node_config).policy.admit("none")
        put_tensors(protected, "sums", noised(asked, sums, context))
    elif "inbox" in texts_in(asked)[OWN]:
        put_lanes(protected, _masked(asked, _layout(asked, template), sums, context, protected))
    else:
        NodeSettings.of(context.node_config).policy.admit("sim")
        noisy = noised(asked, sums, context)
        put_lanes(protected, _words(asked, _layout(asked, template), noisy, context))
    return protected


def _masked(
    asked: RecordDict,
    layout: Layout,
    sums: dict[str, Tensor],
    context: Context,
    reply: RecordDict,
) -> Lanes:
    """Return the masked words; keys for the next sum go into ``reply``."""
    with _opened(context) as client:
        spec = client.receive(get_own(asked, "inbox"))
        noisy = noised(asked, sums, context, least=spec.least_survivors)
        lanes = _words(asked, layout, noisy, context)
        masked = client.mask(spec.session, shown_in(asked, layout), lanes)
        put_own(reply, advert=client.advertise(get_own(asked, "next")))
    return masked


def _words(asked: RecordDict, layout: Layout, sums: dict[str, Tensor], context: Context) -> Lanes:
    """Return the sums as words; the same silo, sum and numbers always give the same words."""
    number = str(texts_in(asked)[OWN]["number"])
    dither = derive(_identity(context).storage_key, digest("dither", number))
    arrays = {name: tensor.numpy() for name, tensor in sums.items()}
    return layout.encode(arrays, dither)


def _layout(asked: RecordDict, template: Template) -> Layout:
    return layout_of(template, ring_of(asked))


def _replying(**own: bytes) -> RecordDict:
    content = RecordDict()
    put_own(content, **own)
    return content


@contextmanager
def _opened(context: Context) -> Iterator[Client]:
    """Yield this silo's end, and store it before a reply leaves: no step is ever forgotten."""
    node = NodeSettings.of(context.node_config)
    member = Member(_identity(context), _roster(context), node.policy)
    stored = texts_in(context.state).get(STATE)
    client = Client.from_bytes(member, bytes(stored["sealed"])) if stored else Client(member)  # type: ignore[arg-type]
    with lasting_ledger(context, client):
        yield client
        context.state[STATE] = ConfigRecord({"sealed": client.to_bytes()})


def _identity(context: Context) -> Identity:
    name = silo_name(int(context.node_config["partition-id"]))
    path = context.node_config.get("identity-key")
    if path:
        return Identity.from_pem(name, _text(path, "identity-key"))
    return simulated_identity(name, _seed(context))


def _roster(context: Context) -> Roster:
    path, key = (context.node_config.get(k) for k in ("roster", "consortium-key"))
    if path and key:
        return read_roster(str(path), str(key))
    if not simulated(context):
        raise SettingError("this silo has an identity-key: set its roster and consortium-key too")
    names = map(silo_name, range(int(context.node_config["num-partitions"])))
    return simulated_roster(names, _seed(context))


def _seed(context: Context) -> int:
    return RunConfig.from_flat(context.run_config).output.seed


def _text(path: object, key: str) -> str:
    try:
        return Path(str(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingError(
            f"{key} = {path} of this silo cannot be read: {error.strerror}"
        ) from None
