"""One round of federated EM: a step at the silo, a sum, a step at the server, twice.

The silo's E-step (``assess``) yields a private belief and public sums; its M-step (``train``)
yields sums of weighted parameter changes. The server's two steps map a bank and a sum to a
bank. Every function is pure; who carries the sums, and under which mask, is not their concern.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedvemoe_app.em.family import Experts, Family, Fit, Probe
from fedvemoe_app.em.gain import gain
from fedvemoe_app.em.mixture import choose_share
from fedvemoe_app.em.private import LEAD, beside, predictive
from fedvemoe_app.em.responsibilities import Responsibilities, Rule, infer
from fedvemoe_app.em.scores import cross_fitted, scored
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update, assessment, spread, update
from fedvemoe_app.errors import RunError

SiloWeight = Literal["sqrt", "equal", "tokens"]


@dataclass(frozen=True, slots=True)
class Inference:
    """Settings of the E-step; see ``em.responsibilities.infer`` for their meaning."""

    top_m: int = 2
    rho: float = 0.15
    predict_floor: float = 0.02
    tau: float = 1.0
    rule: Rule = "stacking"
    kappa: float = 100.0
    gamma: float = 1.0


@dataclass(frozen=True, slots=True)
class Belief:
    """What a silo keeps to itself between phases: weights over all K slots, and a share.

    ``predict [K]`` and ``train [K]`` as in ``Responsibilities``; ``share`` is the switching
    probability of its predictive filter, chosen on its own probe. ``private`` is the weight of
    the silo's own expert in predictions, which ``predict`` makes up to one.
    """

    predict: Tensor
    train: Tensor
    share: float
    private: float = 0.0


def assess(
    family: Family, bank: Bank, inference: Inference, private: Tensor | None = None
) -> tuple[Belief, Assessment]:
    """E-step of one silo under the bank's experts and prior; RunError if an expert is broken.

    ``private`` [held-out tokens] is the log-likelihood under the silo's own expert: it enters
    the predictive weights alone, and no sum.
    """
    belief, sums, _ = judge(probed(family, bank), bank, inference, private)
    return belief, sums


def probed(family: Family, bank: Bank) -> Probe:
    """Return the probe under the living experts; RunError names those that give no likelihood."""
    probe = family.probe(bank.experts, bank.slots)
    if probe.log_lik.isnan().any():
        broken = torch.tensor(bank.slots)[probe.log_lik.isnan().any(dim=0)].tolist()
        raise RunError(f"experts {broken} give no likelihood (NaN): lower learning-rate")
    return probe


def judge(
    probe: Probe, bank: Bank, inference: Inference, private: Tensor | None = None
) -> tuple[Belief, Assessment, Tensor]:
    """Return what a silo believes and contributes, given its probe of the living experts.

    Third come the cross-fitted scores [T] of its held-out tokens, nats.
    """
    slots = torch.tensor(bank.slots)
    prior = bank.prior[slots]
    found = infer(probe.log_lik, prior, lengths=probe.lengths, **asdict(inference))
    scores = cross_fitted(probe.scored, probe.owners, prior, tau=inference.tau)
    sums = assessment(found, scores, len(probe.owners), bank.alive)
    belief = _private(probe, found, slots, len(bank.alive), inference.rule)
    if private is not None:
        belief = _with_own(belief, probe, private, prior, slots, inference)
    return belief, sums, scores.tokens


def _private(probe: Probe, found: Responsibilities, slots: Tensor, size: int, rule: Rule) -> Belief:
    """Return the belief; where a whole example has one expert, predictions never switch."""
    by_token = rule != "sequence"
    return Belief(
        predict=spread(found.predict, slots, size),
        train=spread(found.train, slots, size),
        share=choose_share(probe.log_lik, probe.lengths, found.predict) if by_token else 0.0,
    )


def _with_own(
    belief: Belief, probe: Probe, own: Tensor, prior: Tensor, slots: Tensor, inference: Inference
) -> Belief:
    """Return the belief with the silo's own expert among those that predict.

    It predicts alone where its gain over the cross-fitted mixture is above one standard error:
    what the probe shows to be worse must not make the silo worse. In doubt the mixture predicts,
    for an expert that was stopped on this very probe looks better on it than it is.
    """
    columns, prior = beside(probe.scored, own, prior)
    mixed = scored(columns, probe.owners, prior, tau=inference.tau)
    if gain(columns[:, -1], mixed, probe.owners).exceeds(LEAD):
        return replace(belief, predict=torch.zeros_like(belief.predict), share=1.0, private=1.0)
    found = predictive(columns, prior, floor=inference.predict_floor, tau=inference.tau)
    return replace(
        belief,
        predict=spread(found[:-1], slots, len(belief.predict)),
        share=choose_share(columns, probe.lengths[: probe.held_out], found),
        private=float(found[-1]),
    )


def train(
    family: Family, bank: Bank, weights: Tensor, round_: int, *, silo_weight: SiloWeight = "sqrt"
) -> Update:
    """M-step of one silo: train the experts with non-zero ``weights`` [K] and report the change."""
    slots, fit = fitted(family, bank, weights, round_)
    counts = importance(family.size, silo_weight) if len(slots) else 0.0
    return update(fit, slots, len(bank.alive), counts)


def fitted(family: Family, bank: Bank, weights: Tensor, round_: int) -> tuple[Tensor, Fit]:
    """Return the slots [m] with non-zero ``weights`` [K] and what training did to them."""
    slots = torch.nonzero(weights).flatten()
    if not len(slots):
        return slots, Fit({}, weights[slots], 0.0, 0)
    return slots, family.fit(bank.experts, slots.tolist(), weights[slots], round_)


def importance(tokens: int, rule: SiloWeight) -> float:
    """Return s_i, how much a silo with ``tokens`` training tokens counts in the M-step."""
    return {"equal": 1.0, "sqrt": math.sqrt(tokens), "tokens": float(tokens)}[rule]


def assess_step(bank: Bank, total: Assessment, *, concentration: float = 1.0) -> Bank:
    """Server's half of the E-step: the prior from the summed mass."""
    return bank.with_mass(total.mass, float(total.silos), concentration=concentration)


def train_step(
    bank: Bank,
    total: Update,
    *,
    silos: int,
    learning_rate: float = 1.0,
    shrinkage: float = 1.0,
) -> Bank:
    """Server's half of the M-step: ``theta_k += eta sum_i w_ik delta_ik / (n0 + sum_i w_ik)``.

    ``n0`` is ``shrinkage`` average silos for the share of the ``silos`` that did not answer: it
    damps an expert that few silos could speak for, and vanishes when all of them did, so that
    one SGD step of everybody equals the centralised EM step.
    """
    absent = 1.0 - float(total.silos) / silos
    n0 = shrinkage * absent * float(total.silo_weight / total.silos)
    scale = learning_rate / (total.weight + n0)
    scale = torch.where(total.weight > 0, scale, 0.0)
    return replace(bank, experts={**bank.experts, **_moved(bank.experts, total.delta, scale)})


def _moved(experts: Experts, delta: Mapping[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
    moved = {}
    for name, change in delta.items():
        step = scale.view(-1, *[1] * (change.dim() - 1)) * change.to(scale.dtype)
        moved[name] = (experts[name].to(scale.dtype) + step).to(experts[name].dtype)
    return moved
