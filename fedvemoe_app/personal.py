"""A silo's own expert: what is trained here stays here.

Fed-VEMoE's private slot, Ditto's personal model and the local baseline are this one thing, trained
under different rules. It occupies the resident slot behind the bank's, and no sum or report
holds any of it; between messages it lies in the silo's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.family import Fit
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update, update
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.strategies.registry import method_of


@dataclass(frozen=True, slots=True, eq=False)
class Personal:
    """A silo's own expert, as it stands and as it was best.

    ``last`` and ``best`` hold tensors [1, ...] by name; ``log_lik [T]`` nats per token of the
    probe proper under ``best``, none where nothing is weighed by it. Without early stopping the
    best is the last.
    """

    last: dict[str, Tensor]
    best: dict[str, Tensor]
    log_lik: Tensor


def personalised(
    config: RunConfig,
    family: LanguageFamily,
    bank: Bank,
    weights: Tensor,
    round_: int,
    own: Personal | None,
) -> Personal | None:
    """Return the own expert after a round in which the silo shared, right after it trained.

    ``weights`` [K] are those it trained the ``bank`` with. ``tuned`` takes the main expert as
    local training left it in its resident slot, and costs a pass over the probe but no step.
    """
    method = method_of(config)
    match method.personal:
        case "local":
            return continued(family, own, round_, steps=steps_alone(config, round_))[0]
        case "ditto":
            shared = only(bank.experts, 0)
            return attracted(family, own, shared, round_, strength=method.attraction)
        case "tuned" if bool((weights > 0).any()):
            return standing(family, family.experts.state([int(weights.argmax())]))
    return own


def trained_alone(
    config: RunConfig, family: LanguageFamily, own: Personal | None, round_: int
) -> tuple[Personal, Update]:
    """Train the own expert and nothing else; of it, what is summed holds loss and tokens alone."""
    kept, fit = continued(family, own, round_, steps=steps_alone(config, round_))
    nothing = torch.empty(0, dtype=torch.long)
    metrics = Fit({}, fit.mean_alpha[nothing], fit.loss, fit.tokens)
    return kept, update(metrics, nothing, 1, 0.0)


def steps_alone(config: RunConfig, round_: int) -> int:
    """Return the steps of a local expert in a round.

    They are ``local-steps``, or for a run of strategy local ``total-steps`` spread evenly.
    """
    rounds = config.rounds
    if method_of(config).shared or not rounds.total_steps:
        return rounds.local_steps
    ends = (rounds.total_steps * n // rounds.num_server_rounds for n in (round_ - 1, round_))
    before, after = ends
    return after - before


def newborn(family: LanguageFamily) -> Personal:
    """Return the own expert before any training: LoRA's start, which is the base itself."""
    return standing(family, only(family.experts.initial(family.seed), 0))


def standing(family: LanguageFamily, expert: dict[str, Tensor]) -> Personal:
    """Return an own expert that is used as it stands."""
    return Personal(expert, expert, family.held_out(expert))


def continued(
    family: LanguageFamily, own: Personal | None, round_: int, *, steps: int
) -> tuple[Personal, Fit]:
    """Train a local expert for one more round; its best version on the probe so far is kept.

    The check costs one pass over the probe; the untrained expert is the first candidate.
    """
    own = own or newborn(family)
    last, fit = family.fit_own(own.last, round_, steps=steps)
    now = standing(family, last)
    if now.log_lik.sum() > own.log_lik.sum():
        return now, fit
    return Personal(last, own.best, own.log_lik), fit


def attracted(
    family: LanguageFamily,
    own: Personal | None,
    shared: Mapping[str, Tensor],
    round_: int,
    *,
    strength: float,
) -> Personal:
    """Train an own expert for a round with ``strength / 2 |v - w|^2`` to the ``shared`` w [1, ...].

    It starts as w does.
    """
    start = own.last if own else shared
    steps = family.training.steps
    last, _ = family.fit_own(start, round_, steps=steps, anchor=shared, proximal=strength)
    return Personal(last, last, torch.empty(0, dtype=torch.float64))


def only(experts: Mapping[str, Tensor], slot: int) -> dict[str, Tensor]:
    """Return the expert at ``slot`` as tensors [1, ...]."""
    return {name: stack[slot : slot + 1].clone() for name, stack in experts.items()}
