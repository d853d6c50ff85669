"""A federation on the bigram toy with the lifecycle on: server and silos, and sums between them.

It calls what the Flower side calls, in the same order, and hands over nothing but sums and orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedvemoe_app.em.lifecycle import silo as silo_step
from fedvemoe_app.em.lifecycle.decide import decide
from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.lifecycle.regret import Memory
from fedvemoe_app.em.lifecycle.restructure import restructure
from fedvemoe_app.em.lifecycle.rules import Event, Rules
from fedvemoe_app.em.lifecycle.state import Lifecycle
from fedvemoe_app.em.lifecycle.sums import Seeds, Unrest, Wishes
from fedvemoe_app.em.round import Belief, Inference, assess_step, train_step
from fedvemoe_app.em.shapes import (
    Shapes,
    assessment_shapes,
    seeds_shapes,
    unrest_shapes,
    update_shapes,
    wishes_shapes,
)
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from tests.bigram import Bigram

INFERENCE = Inference()


@dataclass
class Own:
    """A silo's private expert: LoRA trained on its data alone, kept where its probe liked it best."""

    family: Bigram
    expert: dict[str, Tensor]
    best: dict[str, Tensor]
    log_lik: Tensor

    @classmethod
    def of(cls, family: Bigram, bank: Bank) -> Own:
        expert = bank.expert(bank.slots[0])
        return cls(family, expert, expert, cls.seen(family, expert))

    @staticmethod
    def seen(family: Bigram, expert: Mapping[str, Tensor]) -> Tensor:
        return family.probe(expert, [0], held_out_only=True).log_lik[:, 0]

    def train(self, round_: int) -> None:
        delta = self.family.fit(self.expert, [0], torch.ones(1).double(), round_).delta
        self.expert = {n: x + delta.get(n, 0.0) for n, x in self.expert.items()}
        found = self.seen(self.family, self.expert)
        if float(found.sum()) > float(self.log_lik.sum()):
            self.best, self.log_lik = self.expert, found


@dataclass
class Silo:
    """A silo: its data, and what it remembers."""

    family: Bigram
    own: Own | None = None
    held: Bank | None = None
    notice: Notice | None = None
    belief: Belief | None = None
    memory: Memory | None = None

    def assess(self, bank: Bank, notice: Notice, rules: Rules) -> dict[str, Tensor]:
        self.held, self.notice = bank, notice
        self.belief, sums, unrest, self.memory = silo_step.assess(
            self.family,
            bank,
            INFERENCE,
            notice,
            self.memory,
            rules,
            private=self.own.log_lik if self.own else None,
        )
        return {**sums.arrays(), **unrest.arrays()}

    def train(self, round_: int, call: Call, open_: Tensor, rules: Rules) -> dict[str, Tensor]:
        if call.adopt:
            self.held, self.memory = silo_step.adopt(
                self.held, self.memory, self.notice.candidate, self.notice.into
            )
        update, wishes, seed, self.memory = silo_step.train(
            self.family, self.held, self.belief.train, round_, call, open_, self.memory, rules
        )
        if self.own:
            self.own.train(round_)
        return {**update.arrays(), **wishes.arrays(), **(seed.arrays() if seed else {})}


@dataclass
class Federation:
    """Silos and a server that sees their sums."""

    silos: list[Silo]
    bank: Bank
    rules: Rules = field(default_factory=Rules)
    state: Lifecycle = None  # type: ignore[assignment]
    events: list[tuple[int, Event]] = field(default_factory=list)
    contributors: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        self.state = Lifecycle.start(len(self.bank.alive), self.rules)

    def run(self, rounds: int, present: Callable[[int], Sequence[int]] | None = None) -> Federation:
        """Play rounds; ``present`` names the silos of a round, all by default."""
        everybody = present or (lambda _: range(len(self.silos)))
        if not self.state.round:
            self.assess(everybody(1))
        for round_ in range(self.state.round + 1, self.state.round + rounds + 1):
            self.train(round_, everybody(round_))
            self.assess(everybody(round_ + 1))
        return self

    def assess(self, present: Sequence[int]) -> None:
        living, notice = self.bank.living(), self.state.notice(self.bank)
        size = len(living.alive)
        shapes = assessment_shapes(size) | unrest_shapes(size)
        sent = [self.silos[i].assess(living, notice, self.rules) for i in present]
        sums = summed(sent, shapes)
        total, unrest = Assessment.from_arrays(sums), Unrest.from_arrays(sums)
        self.contributors = total.contributors
        self.bank = self.bank.with_living(assess_step(living, total))
        self.state, self.bank, events = decide(
            self.state, self.bank, total, unrest, self.rules, silos=len(self.silos)
        )
        self.events += [(self.state.round, event) for event in events]

    def train(self, round_: int, present: Sequence[int]) -> None:
        living, call = self.bank.living(), self.state.call()
        open_ = self.state.open(self.contributors >= self.rules.c_min, self.bank)
        factor = "B" if round_ % 2 else "A"
        shapes = update_shapes(len(living.alive), {factor: tuple(living.experts[factor].shape)})
        shapes |= wishes_shapes(len(living.alive), self.rules.sketch_size)
        if call.parent is not None:
            shapes |= seeds_shapes({factor: tuple(living.experts[factor].shape)})
        sent = [self.silos[i].train(round_, call, open_, self.rules) for i in present]
        sums = summed(sent, shapes)
        moved = train_step(living, Update.from_arrays(sums), silos=len(self.silos))
        self.state, self.bank, events = restructure(
            self.state,
            self.bank,
            self.bank.with_living(moved),
            Wishes.from_arrays(sums),
            Seeds.from_arrays(sums) if call.parent is not None else None,
            self.rules,
        )
        self.events += [(round_, event) for event in events]

    @property
    def size(self) -> int:
        return len(self.bank.slots)

    def excess(self) -> list[float]:
        """Return each silo's expected loss over its entropy floor, its own expert included."""
        found = []
        for silo in self.silos:
            experts, weights = self.bank.living().experts, silo.belief.predict
            if silo.own:
                experts = {n: torch.cat([x, silo.own.best[n]]) for n, x in experts.items()}
                weights = torch.cat([weights, torch.tensor([silo.belief.private]).double()])
            found.append(silo.family.world.excess(silo.family, experts, weights))
        return found


def summed(sent: Sequence[Mapping[str, Tensor]], shapes: Shapes) -> dict[str, Tensor]:
    """Add what silos sent; what one had nothing for is zero, what was not asked for an error."""
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    for sums in sent:
        for name, tensor in sums.items():
            assert tuple(tensor.shape) == shapes[name], name
            total[name] += tensor
    return total
