"""What settings and method ask for in a round: who trains what, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.shapes import update_shapes
from fedvemoe_app.em.statistics import Update
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.flower.messages.template import Template
from fedvemoe_app.flower.server.consortium import Consortium
from fedvemoe_app.model.family import factor_of

METRICS = Template(update_shapes(1, {}))
"""The sums of a training round in which silos share nothing: no tensor among them."""


def asked_to_train(
    config: RunConfig, consortium: Consortium, round_: int, *, shared: bool
) -> list[str]:
    """Return who trains in a round.

    All do in a warm-up whose clusters must be counted whole, and where nothing is ``shared``.
    """
    rounds, output = config.rounds, config.output
    warming = config.em.start == "sketch" and round_ <= config.em.warmup_rounds
    if (warming and output.c_min > 1) or not shared:
        return consortium.names
    return consortium.sample(rounds.fraction_train, output.seed, round_)


def evaluation_due(config: RunConfig, round_: int) -> bool:
    """Whether a round ends with scores on test data, and they may leave."""
    last = config.rounds.num_server_rounds
    due = round_ % config.evaluation.eval_every == 0 or round_ == last
    return due and not config.dp.withholds_scores


def trained_in(config: RunConfig, round_: int, names: Iterable[str]) -> list[str]:
    """Return the names of the tensors that silos train and send in a round."""
    factor = factor_of(round_, config.rounds.lora_factors)  # type: ignore[arg-type]
    endings = (".A", ".B") if factor == "both" else (f".{factor}",)
    return [name for name in names if name.endswith(endings)]


def to_assess(
    config: RunConfig, rows: TaskRows, round_: int, following: list[str]
) -> dict[str, object]:
    """Return the order that goes with a bank; ``following`` train on it next."""
    return {
        "round": round_,
        "evaluate": evaluation_due(config, round_),
        "tasks": rows.numbers,
        "next": following,
        "draw": drawn_in(config, round_ + 1),
    }


def drawn_in(config: RunConfig, round_: int) -> bool:
    """Whether silos train an expert that each has drawn for itself (``start = random``)."""
    em = config.em
    return em.start == "random" and em.k_init > 1 and round_ <= em.warmup_rounds


def unmoved(sums: Mapping[str, Tensor]) -> Update:
    """Return the sums of a round in which silos share nothing."""
    return Update(**sums, delta={}, squares={})
