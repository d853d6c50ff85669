"""A silo that was not there: what the bank is worth to it, with no training, and what is missing.

The E-step on the silo's probe gives its responsibilities. Two questions are answered on the
held-out probe, with cross-fitted weights: what the mixture gains over the bare base, and (the
regret) what a few local steps on the best expert would gain on top. A regret above the
threshold and above its standard error means that no expert fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.data.encoded import EncodedTasks, encode_tasks
from fedvemoe_app.em import round as em
from fedvemoe_app.em.gain import Gain, gain
from fedvemoe_app.em.scores import scored
from fedvemoe_app.em.state import Bank
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.suite import evaluate
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.report.mixtures import BASE, Mixture
from fedvemoe_app.served import ServedBank
from fedvemoe_app.terms import inference

THRESHOLD = 0.01
"""Nats per token: a smaller regret is no reason for a new expert (see docs/method.md)."""

MIXTURE = "mixture"
_NAME = "onboard"  # of the silo, in the stream that shuffles its training batches
_BARE = Mixture({})


@dataclass(frozen=True, slots=True)
class Line:
    """One way of predicting: ``base``, ``mixture``, or an expert alone, named by its slot.

    ``probe_nats`` per target token (those of the mixture cross-fitted); experts alone answer
    no questions, so their ``test`` holds the perplexity only.
    """

    name: str
    weight: float | None
    probe_nats: float
    test: Score

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "weight": self.weight,
            "probe_nats": self.probe_nats,
            "test_ppl": self.test.ppl,
            "rouge_l": self.test.rouge_l_percent,
            "exact_match": self.test.exact_match_percent,
        }


@dataclass(frozen=True, slots=True)
class Onboarding:
    """What the bank is worth to a silo.

    ``gain`` is of the mixture over the base; ``regret`` of the mixture with its ``best`` expert
    adapted by ``local_steps`` steps over the mixture as it is, None where not asked for.
    """

    tasks: tuple[str, ...]
    mixture: Mixture
    lines: tuple[Line, ...]
    gain: Gain
    best: int
    local_steps: int
    regret: Gain | None

    @property
    def fits(self) -> bool | None:
        """Whether some expert fits; None where the regret is not known."""
        return None if self.regret is None else not self.regret.exceeds(THRESHOLD)

    @property
    def verdict(self) -> tuple[str, str]:
        """The answers to both questions, in words."""
        return _worth(self.gain), _missing(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "tasks": list(self.tasks),
            "mixture": str(self.mixture),
            "responsibilities": {str(slot): w for slot, w in self.mixture.weights.items()},
            "share": self.mixture.share,
            "predictions": [line.to_json() for line in self.lines],
            "gain": asdict(self.gain),
            "regret": asdict(self.regret) if self.regret else None,
            "threshold": THRESHOLD,
            "best": self.best,
            "local_steps": self.local_steps,
            "fits": self.fits,
            "verdict": list(self.verdict),
        }


@dataclass(frozen=True, slots=True)
class _Probed:
    """Nats [T] of each held-out probe token under the base, the mixture and every expert [T, n].

    ``owners`` [T] is the example of each token.
    """

    base: Tensor
    mixture: Tensor
    experts: Tensor
    owners: Tensor


def onboard(served: ServedBank, prior: Mixture, source: str, *, regret: bool = True) -> Onboarding:
    """Assess a silo that holds the tasks of ``source``; the bank stays as it is.

    Raises
    ------
    DataError
        If ``source`` is no usable task file or folder.
    """
    config = served.config
    tasks, data = _read(config, source, served.experts.backbone.tokenizer)
    family, bank = served.family(_NAME, data), served.bank(prior)
    belief, _ = em.assess(family, bank, inference(config))
    weights = {slot: float(belief.predict[j]) for j, slot in enumerate(served.slots)}
    mixture = Mixture({slot: w for slot, w in weights.items() if w > 0}, belief.share)
    probed = _probe(family, bank, config.em.tau)
    best = int(belief.predict.argmax())
    return Onboarding(
        tasks=tasks,
        mixture=mixture,
        lines=tuple(_lines(served, family, mixture, probed)),
        gain=gain(probed.mixture, probed.base, probed.owners),
        best=served.slots[best],
        local_steps=config.rounds.local_steps,
        regret=_regret(family, bank, best, probed, config.em.tau) if regret else None,
    )


def _read(config: RunConfig, source: str, tokenizer: Any) -> tuple[tuple[str, ...], EncodedTasks]:
    """Return the names of all tasks of ``source``, and their examples as the run divides them."""
    bank = open_bank(
        source,
        max_instances=config.data.max_instances or None,
        probe_fraction=config.data.probe_fraction,
        seed=config.output.seed,
    )
    names = tuple(card.name for card in bank.catalogue)
    data = encode_tasks(
        tokenizer,
        bank.load(names),
        seq_len=config.data.seq_len,
        probe_tokens=config.em.probe_tokens,
        eval_examples=config.evaluation.eval_examples,
        generate_examples=config.evaluation.generate_examples,
    )
    return names, data


def _probe(family: LanguageFamily, bank: Bank, tau: float) -> _Probed:
    """Return the held-out probe under everything; the last position is the bare base."""
    log_lik, lengths = family.log_lik(family.data.probe, range(len(bank.slots) + 1))
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    experts = log_lik[:, :-1]
    mixture = scored(experts, owners, bank.prior, tau=tau)
    return _Probed(log_lik[:, -1], mixture, experts, owners)


def _lines(
    served: ServedBank, family: LanguageFamily, mixture: Mixture, probed: _Probed
) -> Iterator[Line]:
    """Yield the experts alone, the mixture and the base, with their scores on the test part."""
    log_lik, lengths = family.log_lik(family.data.test, range(len(served.slots)))
    for j, slot in enumerate(served.slots):
        test = Score(nll=-float(log_lik[:, j].sum()), tokens=len(log_lik), sequences=len(lengths))
        weight = mixture.weights.get(slot, 0.0)
        yield Line(str(slot), weight, -float(probed.experts[:, j].mean()), test)
    most = served.config.evaluation.max_new_tokens
    for name, chosen, nats in ((MIXTURE, mixture, probed.mixture), (BASE, _BARE, probed.base)):
        scores = evaluate(family, served.belief(chosen), max_new_tokens=most)
        yield Line(name, None, -float(nats.mean()), pool(scores.values()))


def _regret(family: LanguageFamily, bank: Bank, best: int, probed: _Probed, tau: float) -> Gain:
    """Return what local training of the best expert would add; it is then put back."""
    try:
        family.fit(bank.experts, [best], torch.ones(1, dtype=torch.float64), 1)
        adapted, _ = family.log_lik(family.data.probe, [best])
    finally:
        family.experts.load(bank.experts, range(len(bank.slots)))
    experts = probed.experts.clone()
    experts[:, best] = adapted[:, 0]
    after = scored(experts, probed.owners, bank.prior, tau=tau)
    return gain(after, probed.mixture, probed.owners)


def _worth(found: Gain) -> str:
    size = f"{abs(found.nats):.3f} ± {found.error:.3f} nats per token"
    if found.nats > found.error:
        return f"The bank helps: its mixture is {size} better than the bare base."
    if -found.nats > found.error:
        return f"The bank harms: its mixture is {size} worse than the bare base."
    return f"The bank makes no difference that this probe can show ({size} from the bare base)."


def _missing(found: Onboarding) -> str:
    regret = found.regret
    if regret is None:
        return "Whether an expert fits was not examined."
    size = f"{regret.nats:+.3f} ± {regret.error:.3f} nats per token"
    training = f"{found.local_steps} local steps on expert {found.best} would bring {size}"
    if not regret.exceeds(THRESHOLD):
        return f"An expert fits: {training}, not above {THRESHOLD} or not above its error."
    share = max(0.0, found.gain.nats) / (max(0.0, found.gain.nats) + regret.nats)
    return (
        f"No expert fits fully: {training}, above the threshold of {THRESHOLD}. The bank alone "
        f"brings {share:.1%} of what bank and training would."
    )
