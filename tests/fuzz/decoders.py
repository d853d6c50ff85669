"""Every decoder of the package: what it reads, sound examples, and the errors it answers with."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import torch
from flwr.app import RecordDict
from peft import LoraConfig

from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import FedVemoeError
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.messages import wire, words
from fedvemoe_app.flower.messages.notices import get_call, get_notice, put_call, put_notice
from fedvemoe_app.flower.messages.parts import Plan, piece_in, split, whole
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.server.reports import read_reports
from fedvemoe_app.model.adapter_files import WEIGHTS, read_adapter, write_adapter
from fedvemoe_app.report import jsonl
from fedvemoe_app.report.journal import read_run
from fedvemoe_app.report.progress import State, Tail, advance
from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.layout import Layout
from fedvemoe_app.secagg.ring import Ring
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.spec import SessionSpec
from tests.fuzz.mutations import bytes_mutated, record_mutated, text_mutated
from tests.secagg.consortium import (
    IDENTITIES,
    ROSTER,
    Run,
    layout_for,
    member,
    shown_for,
    uploads_of,
    zeros,
)

Clean = (FedVemoeError,)


@dataclass(frozen=True)
class Decoder:
    """``sound`` are examples that ``decode`` takes; ``mutate`` damages one; ``size`` in bytes.

    A ``lenient`` one passes over what it cannot read: it refuses nothing.
    """

    sound: Callable[[], list[Any]]
    decode: Callable[[Any], object]
    mutate: Callable[[Random, Any], Any] = bytes_mutated
    size: Callable[[Any], int] = len
    lenient: bool = False


def content_of(put: Callable[[RecordDict], object]) -> list[RecordDict]:
    content = RecordDict()
    put(content)
    return [content]


def on_records(
    put: Callable[[RecordDict], object], decode: Callable[[RecordDict], object]
) -> Decoder:
    return Decoder(cache(lambda: content_of(put)), decode, record_mutated, wire.size_in_bytes)


def tensors(content: RecordDict) -> None:
    made = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.zeros(2).bool(),
        "c": torch.ones(()).double(),
    }
    wire.put_tensors(content, "x", made)


def bank(content: RecordDict) -> None:
    made = {"layer.A": torch.ones(2, 3, 4), "layer.B": torch.zeros(2, 4, 3)}
    wire.put_bank(content, Bank.start(made, alive=2))


def belief(content: RecordDict) -> None:
    half = torch.full((2,), 0.5, dtype=torch.float64)
    wire.put_belief(content, Belief(half, half, 0.5))


def notice(content: RecordDict) -> None:
    candidate = {"layer.A": torch.ones(1, 3, 4)}
    axis, level = torch.zeros(2, 3).double(), torch.zeros(2).double()
    put_notice(content, Notice(3, (0, 2), (1, 1), axis, level, 1, 0, 1, candidate))


def lanes(content: RecordDict) -> None:
    words.put_lanes(content, zeros(small_layout()))


def own(content: RecordDict) -> None:
    words.put_own(content, reply=b"reply", bits=32, silos=4)


def report(content: RecordDict) -> None:
    facts = {
        "tasks": ["a"],
        "category": "code",
        "domain": "",
        "scores": {"a": [1.0] * 6},
        "responsibilities": [0.5, 0.5],
        "active": [0],
        "share": 0.1,
        "private": 0.0,
        "negative_transfer": None,
        "alone": [1.0] * 6,
    }
    wire.put_facts(content, "report", facts)


def read_report(content: RecordDict) -> object:
    """Read it as the server does, down to the line in the journal."""
    found, _ = read_reports({"silo-00": wire.get_facts(content, "report")}, 2)
    bank = Bank.start({"a": torch.zeros(2, 1)}, alive=2)
    rows = [one.row(1, silo, bank, None) for silo, one in found.items()]
    return json.dumps(jsonl.plain(rows), ensure_ascii=False, allow_nan=False).encode()


@cache
def cut_up() -> tuple[RecordDict, list[RecordDict]]:
    """Return the first message and those that follow, of one in parts."""
    whole_one = RecordDict()
    tensors(whole_one)
    return split(whole_one, 200)


def from_parts(content: RecordDict) -> object:
    """Put together what came, as far as the server lets it grow."""
    plan = Plan.of(content)
    if plan is None or plan.total > 2**20:
        return None
    following = [piece_in(part) for part in cut_up()[1]]
    return whole(content, plan, lambda number: following[min(number, len(following)) - 1])


def of_template(content: RecordDict) -> None:
    Template({"count": (), "delta": (2, 40)}, {"delta": [0.1, 0.1]}).put(content)


def template(content: RecordDict) -> object:
    return words.layout_of(Template.get(content), Ring(32, 4))


@cache
def small_layout() -> Layout:
    return layout_for(Ring(32, 4))


@cache
def protocol() -> dict[str, Any]:
    """One session with a silo that is lost, stopped before each step: states and messages."""
    run = Run.of(4, confirm=True)
    layout = small_layout()
    name = "silo-00"
    kept: dict[str, Any] = {"spec": run.spec.to_bytes(), "fresh": run.clients[name].to_bytes()}
    kept["server advertise"] = deepcopy(run.server)
    adverts = run.advertise()
    kept["advert"] = Client(member(name)).advertise(run.spec.to_bytes())
    kept["adverts"], kept["advertised"] = adverts, run.clients[name].to_bytes()
    kept["server share"] = deepcopy(run.server)
    shares = {who: client.share(adverts) for who, client in run.clients.items()}
    kept["shares"], kept["shared"] = shares[name], run.clients[name].to_bytes()
    for who, sealed in shares.items():
        run.server.take_shares(who, sealed)
    inboxes = run.server.inboxes()
    kept["inbox"] = inboxes[name]
    shown = shown_for(layout)
    run.server.open_uploads(shown)
    for who, upload in uploads_of(layout, run.clients).items():
        run.clients[who].receive(inboxes[who])
        masked = run.clients[who].mask(run.spec.session, shown, upload)
        if who != "silo-03":
            run.server.take_upload(who, masked)
    kept["masked"] = run.clients[name].to_bytes()
    kept["survivors"] = run.server.survivors()
    kept["server confirm"] = deepcopy(run.server)
    signed = {who: run.clients[who].confirm(kept["survivors"]) for who in run.server.silos}
    kept["signature"], kept["confirmed"] = signed[name], run.clients[name].to_bytes()
    for who, signature in signed.items():
        run.server.take_confirmation(who, signature)
    kept["request"] = run.server.unmasking()
    kept["server unmask"] = deepcopy(run.server)
    kept["revealed"] = run.clients[name].unmask(kept["request"])
    return kept


def at_silo(message: str, state: str, step: str) -> Decoder:
    """A step of the protocol at a silo, from the state that it is in then."""

    def decode(data: bytes) -> object:
        client = Client.from_bytes(member("silo-00"), protocol()[state])
        return getattr(client, step)(data)

    return Decoder(lambda: [protocol()[message]], decode)


def at_server(message: str, phase: str, take: str) -> Decoder:
    """A step of the protocol at the server, which notes what it refuses."""

    def decode(data: bytes) -> object:
        server = deepcopy(protocol()[f"server {phase}"])
        if not getattr(server, take)("silo-00", data):
            raise FedVemoeError(server.refused["silo-00"])
        return server

    return Decoder(lambda: [protocol()[message]], decode)


@cache
def place() -> Path:
    return Path(mkdtemp(prefix="fuzz-"))


def in_file(
    name: str,
    sound: Callable[[], list[bytes]],
    read: Callable[[Path], object],
    *,
    lenient: bool = False,
) -> Decoder:
    """A decoder that reads a file of this name."""

    def decode(data: bytes) -> object:
        file = place() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return read(file)

    return Decoder(sound, decode, lenient=lenient)


def rows() -> list[bytes]:
    return [b'{"round": 1, "event": "void", "slots": [], "why": "few", "numbers": {}}\n' * 3]


def progress(file: Path) -> State:
    state = State()
    for event in Tail(file).read():
        state = advance(state, event)
    return state


@cache
def adapter() -> Path:
    folder = place() / "adapter"
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q"], task_type="CAUSAL_LM")
    write_adapter(folder, config, {"q.A": torch.ones(2, 3), "q.B": torch.ones(3, 2)})
    return folder


def adapter_file(name: str) -> Decoder:
    def sound() -> list[bytes]:
        return [sound_files()[name]]

    def decode(data: bytes) -> object:
        for file, content in sound_files().items():
            (adapter() / file).write_bytes(data if file == name else content)
        return read_adapter(adapter())

    return Decoder(sound, decode)


@cache
def sound_files() -> dict[str, bytes]:
    return {name: (adapter() / name).read_bytes() for name in ("adapter_config.json", WEIGHTS)}


def baselines() -> list[bytes]:
    return [b'{"clients": {"silo-00": {"ppl": 3.0, "tokens": 5}}, "settings": {}}']


CONSORTIUM = Identity.create("consortium")


def roster(text: bytes) -> object:
    return Roster.verify(text.decode(errors="replace"), CONSORTIUM.public)


def json_bytes(rng: Random, data: bytes) -> bytes:
    """Damage a file of JSON as a value, or as bytes."""
    try:
        return text_mutated(rng, data.decode()).encode(errors="replace")
    except ValueError:
        return bytes_mutated(rng, data)


DECODERS: dict[str, Decoder] = {
    "tensors": on_records(tensors, lambda c: wire.get_tensors(c, "x")),
    "facts": on_records(report, lambda c: wire.get_facts(c, "report")),
    "bank": on_records(bank, wire.get_bank),
    "belief": on_records(belief, wire.get_belief),
    "notice": on_records(notice, get_notice),
    "call": on_records(lambda c: put_call(c, Call(adopt=True, parent=1)), get_call),
    "template": on_records(of_template, template),
    "lanes": on_records(lanes, lambda c: small_layout().check(words.get_lanes(c))),
    "own record": on_records(own, lambda c: (words.get_own(c, "reply"), words.ring_of(c))),
    "report": on_records(report, read_report),
    "parts": Decoder(lambda: [cut_up()[0]], from_parts, record_mutated, wire.size_in_bytes),
    "session": Decoder(lambda: [protocol()["spec"]], SessionSpec.from_bytes),
    "silo: session": at_silo("spec", "fresh", "advertise"),
    "silo: advertisements": at_silo("adverts", "advertised", "share"),
    "silo: sealed shares": at_silo("inbox", "shared", "receive"),
    "silo: survivors": at_silo("survivors", "masked", "confirm"),
    "silo: unmask": at_silo("request", "confirmed", "unmask"),
    "server: advertisement": at_server("advert", "advertise", "take_advertisement"),
    "server: shares": at_server("shares", "share", "take_shares"),
    "server: signature": at_server("signature", "confirm", "take_confirmation"),
    "server: revealed shares": at_server("revealed", "unmask", "take_unmasked"),
    "silo: own state": Decoder(
        lambda: [protocol()["confirmed"]], lambda data: Client.from_bytes(member("silo-00"), data)
    ),
    "roster": Decoder(lambda: [ROSTER.sign(CONSORTIUM).encode()], roster, json_bytes),
    "identity": Decoder(
        lambda: [IDENTITIES["silo-00"].to_pem().encode()],
        lambda data: Identity.from_pem("silo-00", data.decode(errors="replace")),
    ),
    "rows": in_file("rounds.jsonl", rows, jsonl.read),
    "progress": in_file(
        "progress.jsonl",
        lambda: [b'{"event": "phase", "phase": "train", "round": 1, "rounds": 2, "expected": 4}\n'],
        progress,
        lenient=True,
    ),
    "run": in_file("run/config.json", lambda: [b'{"seed": 1}'], lambda f: read_run(f.parent)),
    "baselines": in_file("baselines.json", baselines, read_baselines),
    "adapter config": adapter_file("adapter_config.json"),
    "adapter weights": adapter_file(WEIGHTS),
}
"""By name; each answers damage with a clean error or with a value."""
