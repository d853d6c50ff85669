"""The phases of a run as a silo sees them: content of a message in, content of the reply out.

Every reply holds ``sums`` and, under full reporting, a ``report`` that names the silo's own
figures; under aggregate reporting nothing but sums leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Context, RecordDict
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em import sketch as em_sketch
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.statistics import Sums
from fedvemoe_app.errors import BaseModelError, RunError
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.sums import evaluation_sums
from fedvemoe_app.evaluation.transfer import own_transfer
from fedvemoe_app.flower import memory
from fedvemoe_app.flower.baseline import local_reference
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.consent import reports_in_full
from fedvemoe_app.flower.wire import get_bank, get_facts, get_tensors, mark, put_facts, put_tensors
from fedvemoe_app.silo import Silo, open_silo


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
    put_facts(reply, "report", {"name": silo.name})
    return reply


def assess(content: RecordDict, context: Context) -> RecordDict:
    """E-step on the bank received; scores of the test examples where the order says so."""
    order = get_facts(content, "order")
    silo, bank = _silo(context), get_bank(content)
    belief, total = silo.assess(bank)
    memory.remember(context.state, order["round"], bank, belief)
    if silo.name not in order["next"]:  # it will not train, so it is no crowd to hide in
        total = replace(total, contributors=torch.zeros_like(total.contributors))
    scores = silo.evaluate(belief) if order["evaluate"] else {}
    report = {**_beliefs(belief), "scores": _plain(scores), "negative_transfer": None}
    sums = total.arrays()
    if order["evaluate"]:
        harm = own_transfer(pool(scores.values()), local_reference(silo, context))
        sums |= evaluation_sums(scores, order["tasks"], harm)
        report["negative_transfer"] = harm
    return _reply(context, sums, silo, report)


def sketch(content: RecordDict, context: Context) -> RecordDict:
    """Sketch the gradient at the start, keep the sketch, and return its moments."""
    silo = _silo(context)
    bank, _ = memory.recall(context.state, get_facts(content, "order")["round"])
    found = silo.sketch(bank)
    memory.remember_sketch(context.state, found)
    return _reply(context, em_sketch.moments(found), silo, {})


def cluster(content: RecordDict, context: Context) -> RecordDict:
    """Join the nearest centroid of each restart; show the direction to those that are open."""
    start = get_tensors(content, "start")
    direction = memory.direction(context.state, start["mean"])
    return _reply(context, em_sketch.join(direction, start["centroids"], start["open"]), None, {})


def train(content: RecordDict, context: Context) -> RecordDict:
    """M-step on the bank of the last assessment."""
    order = get_facts(content, "order")
    silo = _silo(context)
    bank, belief = memory.recall(context.state, order["round"] - 1)
    first = None
    if "start" in content:
        start = get_tensors(content, "start")
        first = memory.first_expert(context.state, start["mean"], start["centroids"])
    if not torch.equal(mark(bank), get_tensors(content, "held")["mark"]):
        raise RunError("this silo holds another bank than the server: it would train in vain")
    weights = belief.train if first is None else first
    weights = torch.where(torch.tensor(order["open"]), weights, 0.0)
    return _reply(context, silo.train(bank, weights, order["round"]), silo, {})


def _silo(context: Context) -> Silo:
    config = RunConfig.from_flat(context.run_config)
    try:
        index, silos = context.node_config["partition-id"], context.node_config["num-partitions"]
    except KeyError as error:
        raise RunError(f"the node config of this silo lacks {error}") from error
    return open_silo(config, int(index), int(silos))


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
    return {
        "responsibilities": belief.predict.tolist(),
        "active": torch.nonzero(belief.train).flatten().tolist(),
        "share": belief.share,
    }


def _plain(scores: Mapping[str, Score]) -> dict[str, list[float]]:
    return {task: score.to_array().tolist() for task, score in scores.items()}
