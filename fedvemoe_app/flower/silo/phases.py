"""The phases of a run as a silo sees them: content of a message in, content of the reply out.

Every reply holds ``sums`` and, under full reporting, a ``report`` that names the silo's own
figures; under aggregate reporting nothing but sums leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Context, RecordDict
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.em import sketch as em_sketch
from fedvemoe_app.em.lifecycle import silo as lifecycle
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Sums
from fedvemoe_app.errors import BaseModelError, RunError
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.sums import evaluation_sums
from fedvemoe_app.evaluation.transfer import own_transfer
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.messages.consent import reports_in_full, simulated
from fedvemoe_app.flower.messages.notices import get_call, get_notice
from fedvemoe_app.flower.messages.wire import (
    get_bank,
    get_facts,
    get_tensors,
    mark,
    put_facts,
    put_tensors,
)
from fedvemoe_app.flower.silo import lasting, memory
from fedvemoe_app.flower.silo.baseline import local_reference
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.flower.silo.premises import on_premises
from fedvemoe_app.personal import Personal
from fedvemoe_app.silo import Silo, open_own_silo, open_silo
from fedvemoe_app.strategies.registry import settle


def hello(content: RecordDict, context: Context) -> RecordDict:
    """Check that server and silo run the same code on the same base, and introduce the silo."""
    expected = get_facts(content, "hello")
    if expected["code"] != code_hash():
        raise RunError(
            f"this silo runs other code ({code_hash()[:12]}) than the server "
            f"({expected['code'][:12]}): install the same fedvemoe on both; a simulation takes a "
            "silo's code from the folder in which its SuperLink was started"
        )
    silo = _silo(context)
    if expected["base"] != silo.base:
        raise BaseModelError(
            f"base model {silo.config.model.model_name} of this silo has fingerprint "
            f"{silo.base[:16]}, the server's has {expected['base'][:16]}: use the same files"
        )
    reply = RecordDict()
    put_tensors(reply, "sums", {})
    held = lasting.take_up(content, context, silo)
    known = {} if held is None else {"held": held}
    put_facts(reply, "report", {"name": silo.name, **known})
    return reply


def assess(content: RecordDict, context: Context) -> RecordDict:
    """E-step on the bank received; scores of the test examples where the order says so."""
    order = get_facts(content, "order")
    memory.begin(context.state, "assess", order["round"])
    silo, own = _silo(context), memory.recall_own(context.state)
    bank = get_bank(content) if silo.method.shared else silo.bank_alone(own)
    belief, sums = _judged(silo, bank, own, content, context)
    if order["draw"]:
        first = silo.first_expert(len(bank.alive))
        belief, sums["contributors"] = replace(belief, train=first), first
    memory.remember(context.state, order["round"], bank, belief)
    lasting.keep(context, order["round"])
    if silo.name not in order["next"]:  # it will not train, so it is no crowd to hide in
        sums |= {n: torch.zeros_like(sums[n]) for n in ("contributors", "unhappy") if n in sums}
    report = {**_beliefs(belief), "scores": {}, "negative_transfer": None}
    if order["evaluate"]:
        scored, said = _evaluated(silo, belief, own, order["tasks"], context)
        sums, report = sums | scored, report | said
    return _reply(context, sums, silo, report)


def _evaluated(
    silo: Silo,
    belief: Belief,
    own: Personal | None,
    rows: Mapping[str, int],
    context: Context,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what the test examples add to the sums, and to a report."""
    if own and silo.method.personal == "local":
        scores, alone = silo.evaluate_with(belief, own)
    else:
        scores, alone = silo.evaluate(belief, own), None
    harm = own_transfer(pool(scores.values()), local_reference(silo, context, alone))
    report = {"scores": _plain(scores), "negative_transfer": harm}
    if alone:
        report["alone"] = alone.to_array().tolist()
    return evaluation_sums(scores, rows, harm), report


def _judged(
    silo: Silo, bank: Bank, own: Personal | None, content: RecordDict, context: Context
) -> tuple[Belief, dict[str, Tensor]]:
    """Return what a silo believes of a bank and what it adds to the sums."""
    notice = get_notice(content)
    if notice is None:
        belief, total = silo.assess(bank, own)
        return belief, total.arrays()
    last = memory.recall_regret(context.state)
    belief, parts, found = silo.assess_open(bank, notice, last, own)
    memory.remember_regret(context.state, found, notice)
    return belief, _together(parts)


def sketch(content: RecordDict, context: Context) -> RecordDict:
    """Sketch the gradient at the start, keep the sketch, and return its moments."""
    silo = _silo(context)
    bank, _ = memory.recall(context.state, get_facts(content, "order")["round"])
    found = silo.sketch(bank)
    memory.remember_sketch(context.state, found)
    lasting.keep(context, get_facts(content, "order")["round"])
    return _reply(context, em_sketch.moments(found), silo, {})


def cluster(content: RecordDict, context: Context) -> RecordDict:
    """Join the nearest centroid of each restart; show the direction to those that are open."""
    start = get_tensors(content, "start")
    direction = memory.direction(context.state, start["mean"])
    return _reply(context, em_sketch.join(direction, start["centroids"], start["open"]), None, {})


def train(content: RecordDict, context: Context) -> RecordDict:
    """M-step on the bank of the last assessment."""
    order = get_facts(content, "order")
    memory.begin(context.state, "train", order["round"])
    silo, own = _silo(context), memory.recall_own(context.state)
    bank, belief = memory.recall(context.state, order["round"] - 1)
    if not silo.method.shared:
        own, metrics = silo.train_alone(own, order["round"])
        memory.remember_own(context.state, own)
        lasting.keep_trained(context, silo.config, order["round"])
        return _reply(context, metrics, silo, {})
    first = None
    if "start" in content:
        start = get_tensors(content, "start")
        first = memory.first_expert(
            context.state, start["mean"], start["centroids"], len(bank.prior)
        )
    call = get_call(content)
    last = memory.recall_regret(context.state) if call else None
    if call and call.adopt and last:
        bank, last = lifecycle.adopt(bank, last, *memory.recall_candidate(context.state))
    if not torch.equal(mark(bank), get_tensors(content, "held")["mark"]):
        raise RunError("this silo holds another bank than the server: it would train in vain")
    weights = belief.train if first is None else first
    open_ = torch.tensor(order["open"])
    if call is None:
        weights = torch.where(open_, weights, 0.0)
        sums = silo.train(bank, weights, order["round"]).arrays()
    else:
        parts, last = silo.train_open(bank, weights, order["round"], call, open_, last)
        sums = _together(parts)
    if last is not None:
        memory.remember_regret(context.state, last)
    own = silo.personalise(bank, torch.where(open_, weights, 0.0), order["round"], own)
    if own:
        memory.remember_own(context.state, own)
    lasting.keep_trained(context, silo.config, order["round"])
    return _reply(context, sums, silo, {})


def _together(parts: Sequence[Sums]) -> dict[str, Tensor]:
    return {name: tensor for part in parts for name, tensor in part.arrays().items()}


def _silo(context: Context) -> Silo:
    config, node = settle(RunConfig.from_flat(context.run_config)), context.node_config
    try:
        index = int(node["partition-id"])
        if simulated(context):
            return open_silo(config, index, int(node["num-partitions"]))
    except KeyError as error:
        raise RunError(f"the node config of this silo lacks {error}") from error
    decided = NodeSettings.of(node)
    return open_own_silo(on_premises(config, decided), silo_name(index), decided.category)


def _reply(
    context: Context,
    sums: Sums | Mapping[str, Tensor],
    silo: Silo | None,
    report: Mapping[str, Any],
) -> RecordDict:
    content = RecordDict()
    put_tensors(content, "sums", sums.arrays() if isinstance(sums, Sums) else sums)
    if silo and reports_in_full(context):
        who = {"category": silo.category, "domain": silo.domain, "tasks": silo.tasks}
        put_facts(content, "report", {**who, **report})
    return content


def _beliefs(belief: Belief) -> dict[str, Any]:
    """Return responsibilities over the shared experts, and the weight of the silo's own beside."""
    shared = belief.predict if bool(belief.predict.any()) else belief.train
    return {
        "responsibilities": (shared / shared.sum()).tolist(),
        "active": torch.nonzero(belief.train).flatten().tolist(),
        "share": belief.share,
        "private": belief.private,
    }


def _plain(scores: Mapping[str, Score]) -> dict[str, list[float]]:
    return {task: score.to_array().tolist() for task, score in scores.items()}
