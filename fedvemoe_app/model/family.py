"""A silo's text seen through LoRA experts: the language model's side of ``em.family``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.data.batches import Batch, Example, by_length, shuffled
from fedvemoe_app.data.encoded import EncodedTasks
from fedvemoe_app.data.packing import Arrange, apart
from fedvemoe_app.em import family as em
from fedvemoe_app.em import successive
from fedvemoe_app.model.experts import Experts, Factor
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.objective import Posterior
from fedvemoe_app.model.packing import Wish, packing_on
from fedvemoe_app.model.training import b_gradient, fit

Factors = Literal["alternate", "B", "both"]
ExpertWeight = Literal["posterior", "silo"]
Probing = Literal["full", "successive"]


@dataclass(frozen=True, slots=True)
class Training:
    """Settings of local training; see ``model.training.fit`` for their meaning.

    ``expert_weight`` is what a silo counts in the mean of an expert: its weight times the mean
    posterior, or its weight alone.
    """

    steps: int
    batch_size: int
    learning_rate: float
    max_grad_norm: float = 1.0
    gamma: float = 1.0
    factors: Factors = "alternate"
    proximal: float = 0.0
    posterior: Posterior = "token"
    expert_weight: ExpertWeight = "posterior"


def factor_of(round_: int, factors: Factors) -> Factor:
    """Return what is trained in a round (from 1): B first, for A has no gradient while B = 0."""
    if factors != "alternate":
        return factors
    return "B" if round_ % 2 else "A"


@dataclass(frozen=True, slots=True)
class LanguageFamily:
    """One silo's examples under the experts of a resident base.

    Parameters
    ----------
    name
        The silo's name; with ``seed`` it names the stream that shuffles training batches.
    row_cap
        Most tokens times experts in one forward pass.
    probing
        Whether a probe asks all experts about all examples (see ``em.successive``).
    packing
        Whether sequences may share rows, where that pays and the base keeps them apart.
    """

    name: str
    experts: Experts
    data: EncodedTasks
    training: Training
    row_cap: int
    seed: int
    probing: Probing = "full"
    packing: Wish = "auto"

    @property
    def size(self) -> int:
        """Number of target tokens of the silo's training data."""
        return sum(example.targets for example in self.data.train)

    def probe(
        self, experts: em.Experts, slots: Sequence[int], *, held_out_only: bool = False
    ) -> em.Probe:
        """Return the probe's likelihood [T, m] under the experts at ``slots``."""
        self.experts.load(experts, range(_size(experts)))
        top_up = () if held_out_only else self.data.top_up
        examples = (*self.data.probe, *top_up)
        many = len(slots) >= successive.FEWEST and len(examples) >= 2 * successive.PART
        ask = self._in_two_parts if self.probing == "successive" and many else self._all_at_once
        log_lik, lengths = ask(examples, slots)
        return em.Probe(log_lik, lengths, held_out=len(self.data.probe))

    def _all_at_once(
        self, examples: Sequence[Example], slots: Sequence[int]
    ) -> tuple[Tensor, tuple[int, ...]]:
        log_lik, lengths = self.log_lik(examples, slots, keep=True)
        return log_lik, tuple(lengths.tolist())

    def _in_two_parts(
        self, examples: Sequence[Example], slots: Sequence[int]
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Ask the experts that cannot matter about the first part alone (``em.successive``)."""
        numbers = range(len(examples))
        first = list(numbers[:: successive.PART])
        second = [number for number in numbers if number % successive.PART]
        found, lengths = self._all_at_once([examples[number] for number in first], slots)
        if found.isnan().any():  # a broken expert: whoever asked will say so
            return self._all_at_once(examples, slots)
        able, weights, ratios = successive.judged(found, lengths)
        asked = [slot for slot, one in zip(slots, able.tolist(), strict=True) if one]
        rest, more = self._all_at_once([examples[number] for number in second], asked)
        rest = successive.completed(rest, able, weights, ratios)
        parts = dict(zip(first, torch.split(found, list(lengths)), strict=True))
        parts |= dict(zip(second, torch.split(rest, list(more)), strict=True))
        whole = [parts[number] for number in numbers]
        return torch.cat(whole), tuple(map(len, whole))

    def fit(
        self, experts: em.Experts, slots: Sequence[int], weights: Tensor, round_: int
    ) -> em.Fit:
        """Train the experts at ``slots`` as a mixture with ``weights`` [m] on the silo's data."""
        self.experts.load(experts, range(_size(experts)))
        options = self.training
        found = fit(
            self.experts,
            self._batches(round_, len(slots)),
            slots,
            weights,
            factor=factor_of(round_, options.factors),
            steps=options.steps,
            learning_rate=options.learning_rate,
            gamma=options.gamma,
            max_grad_norm=options.max_grad_norm,
            proximal=options.proximal,
            posterior=options.posterior,
            row_cap=self.row_cap,
        )
        if options.expert_weight == "silo":
            found = replace(found, mean_alpha=torch.ones_like(found.mean_alpha))
        return found

    @property
    def own_slot(self) -> int:
        """The last resident slot, behind the bank's, where a silo's own expert is put."""
        return self.experts.slots - 1

    def fit_own(
        self,
        expert: em.Experts,
        round_: int,
        *,
        steps: int,
        anchor: em.Experts | None = None,
        proximal: float = 0.0,
    ) -> tuple[dict[str, Tensor], em.Fit]:
        """Train both factors of the silo's own ``expert`` [1, ...]; return it, and the fit.

        It sees the batches that the bank's experts see in the same round. ``proximal`` pulls it
        towards ``anchor`` [1, ...].
        """
        self.experts.load(expert, [self.own_slot])
        options = self.training
        found = fit(
            self.experts,
            self._batches(round_, 1),
            [self.own_slot],
            torch.ones(1, dtype=torch.float64),
            factor="both",
            steps=steps,
            learning_rate=options.learning_rate,
            max_grad_norm=options.max_grad_norm,
            proximal=proximal,
            anchor=anchor,
            row_cap=self.row_cap,
        )
        return self.experts.state([self.own_slot]), found

    def held_out(self, expert: em.Experts) -> Tensor:
        """Return nats per token [T] of the probe proper under the silo's own ``expert``."""
        self.experts.load(expert, [self.own_slot])
        return self.log_lik(self.data.probe, [self.own_slot])[0].flatten()

    def _batches(self, round_: int, m: int) -> Iterator[Batch]:
        rng = seeds.stream(self.seed, "batches", self.name, round_)
        examples, size = self.data.train, self.training.batch_size
        return shuffled(examples, size, self._pad, rng, self._arrange(examples, m))

    def _by_length(self, examples: Sequence[Example], m: int) -> list[Batch]:
        most = self.experts.backbone.room.cap(self.row_cap)
        return by_length(examples, most, self._pad, self._arrange(examples, m))

    def _arrange(self, examples: Sequence[Example], m: int) -> Arrange:
        """Return how rows are shared out where ``m`` experts read them."""
        backbone = self.experts.backbone
        longest = max((len(example.ids) for example in examples), default=0)
        budget = backbone.room.cap(self.row_cap) // max(1, m)
        return packing_on(backbone, self.packing, longest, budget) or apart

    def log_lik(
        self, examples: Sequence[Example], slots: Sequence[int], *, keep: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return nats per target token [N, m] under the loaded experts, and tokens per example.

        ``keep`` says that the same examples will come again (see ``token_log_lik``).
        """
        batches = self._by_length(examples, len(slots))
        return token_log_lik(self.experts, batches, slots, row_cap=self.row_cap, keep=keep)

    def start_gradient(self, experts: em.Experts) -> dict[str, Tensor]:
        """Return the gradient of the probe's mean loss with respect to B of the first expert."""
        self.experts.load(experts, range(_size(experts)))
        examples = (*self.data.probe, *self.data.top_up)
        batches = self._by_length(examples, 1)
        return b_gradient(self.experts, batches, row_cap=self.row_cap)

    @property
    def _pad(self) -> int:
        return int(self.experts.backbone.tokenizer.pad_token_id)


def default_row_cap(device: torch.device) -> int:
    """Return how many tokens times experts one forward pass should hold.

    On a CPU activations should stay in its caches; on a GPU the products should be large.
    """
    return 800 if device.type == "cpu" else 16_000


def _size(experts: em.Experts) -> int:
    return len(next(iter(experts.values())))
