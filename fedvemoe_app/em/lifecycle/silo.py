"""The silo's two steps with the lifecycle on: those of ``em.round``, and what they add for it.

Both take the silo's memory of the last step and return the next; where it lies is not their
concern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedvemoe_app.em import round as em
from fedvemoe_app.em.family import Family, Fit, Probe
from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.lifecycle.regret import CONTENT, Memory, observed, side_of
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.em.lifecycle.sums import Seeds, Unrest, Wishes, no_wishes, seeds, wishes
from fedvemoe_app.em.private import edge
from fedvemoe_app.em.scores import scored
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update, update


def assess(
    family: Family,
    bank: Bank,
    inference: em.Inference,
    notice: Notice,
    last: Memory | None,
    rules: Rules,
    *,
    private: Tensor | None = None,
) -> tuple[em.Belief, Assessment, Unrest, Memory]:
    """E-step, and the silo's part in judging the bank: regret, trial, merged candidate.

    ``bank`` holds living experts only. All but ``Unrest.edge`` and the predictive weights are
    the same with and without ``private`` (see ``em.round.assess``).
    """
    probe, candidate = _probed(family, bank, notice)
    belief, sums, now = em.judge(probe, bank, inference, private)
    main_column = int(belief.train.argmax())
    main = notice.slots[main_column]
    regret, seen, unhappy = observed(last, notice, now, probe.owners, main, rules)
    side = side_of(last, notice, main) if unhappy else CONTENT
    memory = Memory(
        *(notice.round, regret, seen, main, side),
        slots=torch.tensor(notice.slots),
        log_lik=torch.cat([probe.scored, candidate], dim=1),
        owners=probe.owners,
        local=torch.zeros(0, dtype=torch.float64),
        wishes=torch.zeros(0, 0, dtype=torch.float64),
    )
    unrest = Unrest(
        unhappy=_one_hot(main_column, side, len(notice.slots)),
        shared=torch.outer(sums.mass, sums.mass),
        edge=_scalar(_edge(probe, bank, notice, inference, private)),
        merged=_scalar(_merged(probe, candidate, bank, notice, inference)),
    )
    return belief, sums, unrest, memory


def _probed(family: Family, bank: Bank, notice: Notice) -> tuple[Probe, Tensor]:
    """Return the probe of the bank, and the candidate's column [T, 0 or 1] of held-out tokens."""
    if not notice.candidate:
        probe = em.probed(family, bank)
        return probe, probe.scored[:, :0]
    both = {
        name: torch.cat([stack, notice.candidate[name]]) for name, stack in bank.experts.items()
    }
    more = Bank(both, torch.ones(len(bank.alive) + 1, dtype=torch.bool), bank.prior)
    probe = em.probed(family, more)
    return replace(probe, log_lik=probe.log_lik[:, :-1]), probe.scored[:, -1:]


def _edge(
    probe: Probe, bank: Bank, notice: Notice, inference: em.Inference, private: Tensor | None
) -> float:
    if notice.trial is None:
        return 0.0
    return edge(probe.scored, private, probe.owners, bank.prior, notice.trial, tau=inference.tau)


def _merged(
    probe: Probe, candidate: Tensor, bank: Bank, notice: Notice, inference: em.Inference
) -> float:
    if notice.into is None or notice.leaving is None or not len(candidate):
        return 0.0
    prior = bank.prior.clone()
    prior[notice.into] += prior[notice.leaving]
    prior[notice.leaving] = 0.0
    columns = _replaced(probe.scored, [notice.into], candidate)
    tokens = scored(columns, probe.owners, prior, tau=inference.tau)
    return float(tokens.sum()) / len(tokens)


def adopt(
    bank: Bank, memory: Memory, candidate: Mapping[str, Tensor], into: int
) -> tuple[Bank, Memory]:
    """Return bank and memory with the assessed candidate in the place of column ``into``.

    What a silo does before all else when the order to train says so.
    """
    columns = _replaced(memory.log_lik[:, :-1], [into], memory.log_lik[:, -1:])
    return bank.adopt(into, candidate), replace(memory, log_lik=columns)


def train(
    family: Family,
    bank: Bank,
    weights: Tensor,
    round_: int,
    call: Call,
    open_: Tensor,
    last: Memory | None,
    rules: Rules,
    *,
    tau: float = 1.0,
    silo_weight: em.SiloWeight = "sqrt",
) -> tuple[Update, Wishes, Seeds | None, Memory | None]:
    """M-step, and the silo's part in a birth.

    ``open_`` [K] bool says which experts are summed. An expert that is closed is not trained,
    but for the parent of a birth, which those on the called side train and add as a seed alone.
    """
    column = _seeding(call, last, weights)
    allowed = open_ if column is None else open_.index_fill(0, torch.tensor([column]), True)
    slots, fit = em.fitted(family, bank, torch.where(allowed, weights, 0.0), round_)
    counts = em.importance(family.size, silo_weight) if len(slots) else 0.0
    heard = replace(fit, mean_alpha=fit.mean_alpha * open_[slots])
    change = update(heard, slots, len(bank.alive), counts)
    if not len(slots):
        return change, no_wishes(len(bank.alive), rules), None, last
    wish = wishes(fit, slots, open_, rules)
    row = None if column is None else slots.tolist().index(column)
    seed = seeds(fit, row, counts) if call.parent is not None else None
    if last is not None:
        local = _score_after(family, bank, slots, fit, last, tau)
        last = last.trained(local, wish.wishes)
    return change, wish, seed, last


def _seeding(call: Call, last: Memory | None, weights: Tensor) -> int | None:
    """Return the column of the parent if this silo is called to seed it."""
    if last is None or call.parent is None or (last.main, last.side) != (call.parent, call.side):
        return None
    column = last.slots.tolist().index(last.main)
    return column if float(weights[column]) > 0 else None


def _score_after(
    family: Family, bank: Bank, slots: Tensor, fit: Fit, last: Memory, tau: float
) -> Tensor:
    """Return the scores [T] of the held-out tokens under the experts as this silo trained them."""
    own = {
        name: stack.index_add(0, slots, fit.delta[name].to(stack.dtype))
        if name in fit.delta
        else stack
        for name, stack in bank.experts.items()
    }
    probe = family.probe(own, slots.tolist(), held_out_only=True)
    columns = _replaced(last.log_lik[:, : len(bank.alive)], slots.tolist(), probe.log_lik)
    return scored(columns, last.owners, bank.prior, tau=tau)


def _replaced(columns: Tensor, at: Sequence[int], values: Tensor) -> Tensor:
    return columns.index_copy(1, torch.tensor(at), values.to(columns.dtype))


def _one_hot(column: int, side: int, size: int) -> Tensor:
    """Return [K, 2] with a one for a dissatisfied silo's main expert and side."""
    counts = torch.zeros(size, 2, dtype=torch.float64)
    if side != CONTENT:
        counts[column, side] = 1.0
    return counts


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
