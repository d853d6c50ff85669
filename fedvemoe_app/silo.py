"""What a silo does in each phase, without Flower: its data, its model, and one step at a time.

A process keeps one base with its experts resident and serves any silo with it; what belongs to
one silo alone (its belief, its sketch) is handed in and out and stays with the silo.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from fedvemoe_app import seeds
from fedvemoe_app.config import RunConfig
from fedvemoe_app.config_groups.model import ModelSettings
from fedvemoe_app.data.encoded import EncodedTasks, encode_tasks
from fedvemoe_app.data.holdings import all_tasks_of, assignment_of, tasks_of
from fedvemoe_app.data.task import Task
from fedvemoe_app.em import round as em
from fedvemoe_app.em import sketch
from fedvemoe_app.em.lifecycle import silo as lifecycle
from fedvemoe_app.em.lifecycle.orders import Call, Notice
from fedvemoe_app.em.lifecycle.regret import Memory
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Sums, Update
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.suite import evaluate, evaluate_with_own
from fedvemoe_app.model.backbone import Backbone, resident
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.family import LanguageFamily, default_row_cap
from fedvemoe_app.personal import Personal, newborn, personalised, trained_alone
from fedvemoe_app.strategies.method import Method
from fedvemoe_app.strategies.registry import method_of
from fedvemoe_app.terms import inference, rules, slots_of, training


@dataclass(frozen=True, slots=True, eq=False)
class Silo:
    """One silo of a run, ready to work.

    ``domain`` is the planted truth of the embedded bank, for reports; "" elsewhere.
    """

    name: str
    category: str
    domain: str
    tasks: tuple[str, ...]
    config: RunConfig
    family: LanguageFamily

    @property
    def base(self) -> str:
        """Fingerprint of the base model that this silo adapts."""
        return self.family.experts.backbone.fingerprint

    @property
    def method(self) -> Method:
        """What the run's strategy asks of a silo."""
        return method_of(self.config)

    def assess(self, bank: Bank, own: Personal | None = None) -> tuple[em.Belief, Assessment]:
        """Probe the bank's experts: the E-step. The silo's ``own`` expert predicts with them."""
        private = self._weighed(own)
        belief, total = em.assess(self.family, bank, inference(self.config), private=private)
        if own and self.method.predict == "personal":
            nobody = torch.zeros_like(belief.predict)
            belief = replace(belief, predict=nobody, share=1.0, private=1.0)
        return belief, total

    def assess_open(
        self, bank: Bank, notice: Notice, last: Memory | None, own: Personal | None = None
    ) -> tuple[em.Belief, list[Sums], Memory]:
        """Probe a bank whose structure may change, with the memory of the last round."""
        belief, total, unrest, memory = lifecycle.assess(
            self.family,
            bank,
            inference(self.config),
            notice,
            last,
            rules(self.config),
            private=self._weighed(own),
        )
        return belief, [total, unrest], memory

    def _weighed(self, own: Personal | None) -> Tensor | None:
        """Return the probe's likelihood under the own expert, where it predicts with others."""
        beside = own and self.method.predict == "mixture" and self.method.shared
        return own.log_lik if own and beside else None

    def evaluate(self, belief: em.Belief, own: Personal | None = None) -> dict[str, Score]:
        """Score the test examples of every task under the experts probed last, and ``own``."""
        if own and belief.private > 0:
            self.family.experts.load(own.best, [self.family.own_slot])
        tokens = self.config.evaluation.max_new_tokens
        return evaluate(self.family, belief, max_new_tokens=tokens)

    def evaluate_with(self, belief: em.Belief, own: Personal) -> tuple[dict[str, Score], Score]:
        """Do so, and score their likelihood under the best of ``own`` alone, in one pass."""
        self.family.experts.load(own.best, [self.family.own_slot])
        tokens = self.config.evaluation.max_new_tokens
        return evaluate_with_own(self.family, belief, max_new_tokens=tokens)

    def train(self, bank: Bank, weights: Tensor, round_: int) -> Update:
        """Train the experts that have a weight in ``weights`` [K]: the M-step."""
        rule = self.config.rounds.silo_weight
        return em.train(self.family, bank, weights, round_, silo_weight=rule)  # type: ignore[arg-type]

    def train_open(
        self,
        bank: Bank,
        weights: Tensor,
        round_: int,
        call: Call,
        open_: Tensor,
        last: Memory | None,
    ) -> tuple[list[Sums], Memory | None]:
        """Train what is open and has a weight, and answer the call of a birth."""
        change, wishes, seed, memory = lifecycle.train(
            self.family,
            bank,
            weights,
            round_,
            call,
            open_,
            last,
            rules(self.config),
            tau=self.config.em.tau,
            silo_weight=self.config.rounds.silo_weight,  # type: ignore[arg-type]
        )
        return [change, wishes, *([seed] if seed else [])], memory

    def personalise(
        self, bank: Bank, weights: Tensor, round_: int, own: Personal | None
    ) -> Personal | None:
        """Return the silo's own expert after a round in which it shared: right after ``train``."""
        return personalised(self.config, self.family, bank, weights, round_, own)

    def train_alone(self, own: Personal | None, round_: int) -> tuple[Personal, Update]:
        """Train the silo's own expert and nothing else; what is summed says nothing of it."""
        return trained_alone(self.config, self.family, own, round_)

    def bank_alone(self, own: Personal | None) -> Bank:
        """Return the bank of a silo that gets none: its own expert as it stands."""
        return Bank.start((own or newborn(self.family)).last, alive=1)

    def first_expert(self, experts: int) -> Tensor:
        """Draw the expert that this silo trains first, as weights [K] (``start = random``)."""
        rng = seeds.stream(self.config.output.seed, "first expert", self.name)
        return torch.eye(experts, dtype=torch.float64)[int(rng.integers(experts))]

    def sketch(self, bank: Bank) -> Tensor:
        """Return the sketch [d] of this silo's gradient at the start."""
        gradient = self.family.start_gradient(bank.experts)
        return sketch.project(
            gradient, size=self.config.em.sketch_size, seed=self.config.output.seed
        )


def open_silo(config: RunConfig, index: int, silos: int) -> Silo:
    """Return silo ``index`` of ``silos``, its base and experts resident in this process."""
    plan = assignment_of(config.data, config.output.seed, silos).silos[index]
    return _opened(config, plan.name, plan.category, (index, silos))


def open_own_silo(config: RunConfig, name: str, category: str) -> Silo:
    """Return the silo that holds all tasks of the settings' bank: a deployed one, on its own."""
    return _opened(config, name, category, None)


Place = tuple[int, int] | None
"""Which silo of how many it is among whom the bank is shared; None: all of it is its own."""


def _opened(config: RunConfig, name: str, category: str, place: Place) -> Silo:
    experts = resident_experts(config.model, slots_of(config))
    tasks = _tasks(config, place)
    family = LanguageFamily(
        name=name,
        experts=experts,
        data=_encoded(config, place),
        training=training(config),
        row_cap=config.rounds.row_cap or default_row_cap(experts.backbone.device),
        seed=config.output.seed,
        probing=config.em.probing,  # type: ignore[arg-type]
        packing=config.rounds.packing,  # type: ignore[arg-type]
    )
    domains = {task.domain for task in tasks}
    return Silo(
        name=name,
        category=category,
        domain=domains.pop() if len(domains) == 1 else "",
        tasks=tuple(task.name for task in tasks),
        config=config,
        family=family,
    )


_resident: dict[tuple[ModelSettings, int], Experts] = {}


def resident_experts(settings: ModelSettings, slots: int) -> Experts:
    """Return this process's one set of experts on its one base; another call frees the last."""
    if (settings, slots) not in _resident:
        for experts in _resident.values():
            experts.close()
        _resident.clear()
        _resident[settings, slots] = _load_experts(settings, slots)
    return _resident[settings, slots]


def experts_on(backbone: Backbone, settings: ModelSettings, slots: int) -> Experts:
    """Return experts of the settings' shape on a base, be it loaded or without weights."""
    return Experts(
        backbone,
        slots=slots,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        target_modules=settings.targets,
        layers=settings.adapter_layers,  # type: ignore[arg-type]
    )


def _load_experts(settings: ModelSettings, slots: int) -> Experts:
    disable_progress_bar()  # one bar per worker process says nothing to anybody
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    backbone = resident(
        locate(settings.model_name),
        dtype=settings.dtype,
        bits=settings.bits,
        gradient_checkpointing=settings.gradient_checkpointing,
        device=settings.device,
    )
    return experts_on(backbone, settings, slots)


def _tasks(config: RunConfig, place: Place) -> tuple[Task, ...]:
    if place is None:
        return all_tasks_of(config.data, config.output.seed)
    index, silos = place
    return tasks_of(config.data, config.output.seed, silos, index)


@lru_cache(maxsize=32)
def _encoded(config: RunConfig, place: Place) -> EncodedTasks:
    tokenizer = resident_experts(config.model, slots_of(config)).backbone.tokenizer
    return encode_tasks(
        tokenizer,
        _tasks(config, place),
        seq_len=config.data.seq_len,
        probe_tokens=config.em.probe_tokens,
        eval_examples=config.evaluation.eval_examples,
        generate_examples=config.evaluation.generate_examples,
    )
