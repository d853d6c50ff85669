"""Secure sums through real ClientApps: the sums of ``sim`` bit for bit, and nothing else to see.

Removed by hand, each turned a test here red: the number in the dither (equal words for
another sum); keys that ride on replies (more than two exchanges); the masks (words tell the
worlds apart); the c-min rule at the silo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment
from fedvemoe_app.flower.messages.wire import get_facts, get_tensors
from fedvemoe_app.flower.messages.words import OWN, get_lanes
from fedvemoe_app.flower.silo import secure as secure_silo
from fedvemoe_app.report.journal import Run
from fedvemoe_app.secagg.layout import CANARY
from fedvemoe_app.silo import Silo
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.flower.small_sums import SmallSums, WatchedGrid, equal, numbers

QUICK: Settings = {
    "c-min": 1,
    "reporting": "aggregate",
    "generate-examples": 0,
    "eval-examples": 2,
    "target-modules": "q_proj",
    "probe-tokens": 30,
}
Seen = list[tuple[Message, Message]]


@pytest.fixture(scope="module")
def runs(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Run, Seen]]:
    """Return a run with everything that the server's process received, made once."""

    @cache
    def run(privacy: str, confirm: bool = False) -> tuple[Run, Seen]:
        seen: Seen = []

        def watch(message: Message, reply: Message) -> Message:
            seen.append((message, reply))
            return reply

        settings = settings_in(tmp_path_factory.mktemp(privacy), privacy=privacy, confirm=confirm)
        return federate({**settings, **QUICK}, tamper=watch), seen

    return run


def rows(run: Run) -> list[dict[str, Any]]:
    return [{**row, "bytes_up": 0, "bytes_down": 0} for row in without_seconds(run)]


def experts(run: Run) -> list[bytes]:
    files = sorted((run.folder / "experts").rglob("*.safetensors"))
    assert len(files) == QUICK.get("k-init", 2)
    return [path.read_bytes() for path in files]


# The sums.


@pytest.mark.parametrize("confirm", [False, True])
def test_a_run_under_secagg_equals_sim_bit_for_bit(
    confirm: bool, runs: Callable[..., tuple[Run, Seen]]
) -> None:
    masked, plain = runs("secagg", confirm)[0], runs("sim")[0]
    assert rows(masked) == rows(plain)
    assert masked.tasks == plain.tasks
    assert experts(masked) == experts(plain)
    assert masked.events == plain.events == []


def test_and_none_to_a_ten_thousandth(runs: Callable[..., tuple[Run, Seen]]) -> None:
    masked, float_sums = runs("secagg")[0], runs("none")[0]
    for mine, theirs in zip(masked.rounds, float_sums.rounds, strict=True):
        for name in ("ppl", "mass", "prior", *(["loss_train"] if mine["round"] else [])):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)  # type: ignore[literal-required]
    for path in (masked.folder / "experts").rglob("*.safetensors"):
        other = load_file(float_sums.folder / path.relative_to(masked.folder))
        for name, tensor in load_file(path).items():
            assert (tensor - other[name]).norm() <= 1e-4 * other[name].norm()


def test_sums_of_all_modes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        mode: [SmallSums(monkeypatch, privacy=mode).sum()[0] for _ in range(2)]
        for mode in ("none", "sim", "secagg")
    }
    assert equal(found["secagg"][0], found["sim"][0])
    assert equal(found["secagg"][0], found["secagg"][1])
    for name, total in found["none"][0].items():
        assert (found["sim"][0][name] - total).norm() <= 1e-4 * total.norm()


def test_short_words_sum_to_a_hundredth_and_cost_half(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SmallSums(monkeypatch, privacy="none").sum()[0]
    found = {bits: SmallSums(monkeypatch, bits=bits).sum() for bits in (32, 16)}
    error = (found[16][0]["delta"] - plain["delta"]).norm() / plain["delta"].norm()
    assert 1e-5 < error < 1e-2
    assert torch.equal(found[16][0]["mass"], found[32][0]["mass"])
    saved = found[32][1].bytes_up - found[16][1].bytes_up
    assert saved == SILOS * 2 * (80 + len(CANARY))


def test_a_run_with_short_words_ends_close_to_one_without(
    settings: Callable[..., Settings], runs: Callable[..., tuple[Run, Seen]]
) -> None:
    run = federate({**settings(privacy="secagg"), **QUICK, "secagg-bits": 16})
    plain = runs("none")[0]
    for mine, theirs in zip(run.rounds, plain.rounds, strict=True):
        assert mine["ppl"] == pytest.approx(theirs["ppl"], rel=0.02)
    assert run.rounds[0]["ppl"] == pytest.approx(plain.rounds[0]["ppl"], rel=1e-6)


def test_the_same_numbers_are_rounded_anew_in_the_next_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch)
    assert not torch.equal(sums.sum()[0]["delta"], sums.sum()[0]["delta"])


# The exchanges.


def exchanges(seen: Seen) -> list[str]:
    """Return the kinds of a run's exchanges in order, each of all silos."""
    kinds = [message.metadata.message_type.removeprefix("query.") for message, _ in seen]
    groups = [kinds[i : i + SILOS] for i in range(0, len(kinds), SILOS)]
    assert all(len(set(group)) == 1 for group in groups)
    return [group[0] for group in groups]


@pytest.mark.parametrize("confirm", [False, True])
def test_a_sum_costs_two_exchanges_and_keys_are_set_up_once(
    confirm: bool, runs: Callable[..., tuple[Run, Seen]]
) -> None:
    after = ["secagg_confirm", "secagg_unmask"] if confirm else ["secagg_unmask"]
    sums = ["evaluate", "sketch", *["cluster"] * 3, *["train", "evaluate"] * 2]
    expected = ["hello", "secagg_advertise", "secagg_share"]
    for kind in sums:
        expected += [kind, *after]
    assert exchanges(runs("secagg", confirm)[1]) == expected


def test_other_silos_cost_a_set_up_and_are_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, 5)
    for nodes in ((1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5)):
        total, tally = sums.sum(*nodes)
        assert (tally.answered, tally.failures, tally.void) == (len(nodes), {}, "")
        assert total["count"] == len(nodes)
    fresh = ["advertise", "share", "train", "unmask"]
    assert sums.silos.kinds() == [*fresh, *fresh, *fresh, "train", "unmask"]


# What the server sees.

ALLOWED = {
    "query.hello": {"sums": set(), "sums.index": {"json"}, "report": {"json"}},
    "query.secagg_advertise": {OWN: {"reply"}},
    "query.secagg_share": {OWN: {"reply"}},
    "query.secagg_confirm": {OWN: {"reply"}},
    "query.secagg_unmask": {OWN: {"reply", "shares"}},
    "upload": {"words": {"tensors", "statistics"}, OWN: {"advert"}},
}


@pytest.mark.parametrize("confirm", [False, True])
def test_nothing_reaches_the_server_but_the_protocol(
    confirm: bool, runs: Callable[..., tuple[Run, Seen]]
) -> None:
    for message, reply in runs("secagg", confirm)[1]:
        kind = message.metadata.message_type
        allowed = ALLOWED.get(kind, ALLOWED["upload"])
        found = {name: set(reply.content[name]) for name in reply.content}
        assert found.keys() == allowed.keys()
        assert all(keys <= allowed[name] for name, keys in found.items())
        if kind == "query.hello":
            assert get_facts(reply.content, "report").keys() == {"name"}
            assert get_tensors(reply.content, "sums") == {}


def test_uploads_are_of_one_size(runs: Callable[..., tuple[Run, Seen]]) -> None:
    sizes: dict[tuple[str, str], set[str]] = {}
    for message, reply in runs("secagg")[1]:
        if "words" in reply.content:
            shapes = {lane: words.shape for lane, words in get_lanes(reply.content).items()}
            key = message.metadata.message_type, message.metadata.group_id
            sizes.setdefault(key, set()).add(str(shapes))
    assert {kind for kind, _ in sizes} == {"evaluate", "query.sketch", "query.cluster", "train"}
    assert [len(shapes) for key, shapes in sizes.items() if key[0] != "query.cluster"]
    assert all(len(shapes) == 1 for shapes in sizes.values())


REPEATS = 40


def contribution(slot: int) -> dict[str, Tensor]:
    """One silo's numbers where it trains expert ``slot``: of another sign for each expert."""
    made = numbers(slot)
    delta = torch.zeros(2, 40)
    delta[slot] = made["delta"][slot].abs() * (1 - 2 * slot)
    return {**made, "delta": delta}


def uploads(patch: pytest.MonkeyPatch, privacy: str, swapped: bool, count: int) -> list[Any]:
    """Return the first silo's words of ``count`` sums in a world and in that with two swapped."""
    sums = SmallSums(patch, 3, privacy=privacy)
    first = int(swapped)
    sums.values = {0: contribution(first), 1: contribution(1 - first), 2: numbers(2)}
    for _ in range(count):
        assert sums.sum()[1].void == ""
    found = [reply for message, reply in sums.silos.seen if message.metadata.dst_node_id == 1]
    words = [get_lanes(reply.content)["tensors"] for reply in found if "words" in reply.content]
    return [lane.view("<i4")[:-4].astype(np.float64) for lane in words]


STATISTICS: dict[str, Callable[[Any, Any], float]] = {
    "mean": lambda words, known: float(words.mean()),
    "zeros in the first expert": lambda words, known: -float((words[:40] == 0).mean()),
    "top bits of the second expert": lambda words, known: -float((words[40:] < 0).mean()),
    "low bits of the first expert": lambda words, known: float((words[:40] % 2).mean()),
    "correlation with its plain words": lambda words, known: float(np.corrcoef(words, known)[0, 1]),
}


@pytest.fixture(scope="module")
def worlds() -> dict[str, tuple[list[Any], list[Any]]]:
    """Words of the first silo in both worlds, without masks and with them."""
    with pytest.MonkeyPatch.context() as patch:
        return {
            privacy: (
                uploads(patch, privacy, False, REPEATS),
                uploads(patch, privacy, True, REPEATS),
            )
            for privacy in ("sim", "secagg")
        }


@pytest.mark.parametrize("statistic", STATISTICS)
def test_swapped_silos_cannot_be_told_from_masked_words(
    statistic: str, worlds: dict[str, tuple[list[Any], list[Any]]]
) -> None:
    known = worlds["sim"][0][0]
    truth = [1] * REPEATS + [0] * REPEATS
    auc = {
        privacy: roc_auc_score(truth, [STATISTICS[statistic](w, known) for w in (*one, *other)])
        for privacy, (one, other) in worlds.items()
    }
    assert auc["sim"] == 1.0
    assert abs(auc["secagg"] - 0.5) < 0.3  # four and a half standard deviations


# Experts of few.


LONER: dict[str, Any] = {"start": "none", "num_server_rounds": 1, "lifecycle": False}


@pytest.fixture
def loner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the last silo be the only one that trains expert 1; all others train expert 0."""
    plain = Silo.assess

    def assess(silo: Silo, bank: Bank, own: None) -> tuple[Belief, Assessment]:
        belief, total = plain(silo, bank, own)
        alone = silo.name == f"silo-{SILOS - 1:02d}"
        train = torch.tensor([0.0, 1.0] if alone else [1.0, 0.0], dtype=torch.float64)
        return replace(belief, train=train), replace(total, contributors=(train > 0).double())

    monkeypatch.setattr(Silo, "assess", assess)


@pytest.mark.parametrize("privacy", [pytest.param("sim", marks=pytest.mark.slow), "secagg"])
def test_an_expert_of_fewer_than_c_min_is_not_summed(
    privacy: str,
    loner: None,
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Tensor] = []
    protect = secure_silo.protect

    def watch(asked: RecordDict, reply: RecordDict, context: Context) -> RecordDict:
        sums = get_tensors(reply, "sums")
        if "weight" in sums:
            sent.append(sums["weight"])
            others = (sums[n][1] for n in sums if n.startswith(("delta/", "squares/")))
            assert bool(sums["weight"][1]) == any(bool(t.any()) for t in others)
        return protect(asked, reply, context)

    monkeypatch.setattr(secure_silo, "protect", watch)
    found = {}
    for least in (1, 2):
        chosen = settings(privacy=privacy, **LONER)
        found[least] = experts(federate({**chosen, **QUICK, "c-min": least}))
    still = settings(privacy=privacy, server_learning_rate=0.0, **LONER)
    untouched = experts(federate({**still, **QUICK}))
    assert [bool(weight[1]) for weight in sent[: 2 * SILOS]] == [*[False] * 3, True, *[False] * 4]
    assert all(bool(weight[0]) for weight in sent[: SILOS - 1])
    assert found[1][1] != untouched[1]
    assert found[2][1] == untouched[1]
    assert found[1][0] == found[2][0] != untouched[0]


def test_the_watch_sees_every_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch, 3)
    sums.sum()
    assert isinstance(sums.silos, WatchedGrid)
    assert len(sums.silos.seen) == 3 * 4
