"""One round of a few silos and their server, timed phase by phase, through the real functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from torch import Tensor

from benchmarks.timing import Clock
from fedvemoe_app.data.batches import Example, shuffled
from fedvemoe_app.em import family as em_family
from fedvemoe_app.em import round as em
from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.flower.messages.wire import get_bank, get_tensors, put_bank, put_tensors
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.seeds import stream
from fedvemoe_app.silo import Silo
from fedvemoe_app.terms import inference

PHASES = ("wire", "probe", "weights", "perplexity", "generation", "training", "server")


@dataclass
class Stopwatch:
    """Seconds, token rows (tokens times experts) and bytes by phase, added up over silos."""

    clock: Clock
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    token_rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes_moved: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what happens inside to a phase."""
        start = self.clock.now()
        yield
        self.seconds[name] += self.clock.now() - start

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers by phase."""
        return {
            "seconds": {phase: self.seconds[phase] for phase in PHASES},
            "token_rows": dict(self.token_rows),
            "bytes": dict(self.bytes_moved),
        }


@dataclass(frozen=True, slots=True)
class Watched:
    """A silo's family of experts that tells the stopwatch when it probes and trains."""

    family: LanguageFamily
    watch: Stopwatch

    @property
    def size(self) -> int:
        """Number of target tokens of the silo's training data."""
        return self.family.size

    def probe(
        self, experts: em_family.Experts, slots: Sequence[int], *, held_out_only: bool = False
    ) -> em_family.Probe:
        """Probe, timed."""
        data = self.family.data
        asked = data.probe if held_out_only else (*data.probe, *data.top_up)
        self.watch.token_rows["probe"] += _tokens(asked) * len(slots)
        with self.watch.phase("probe"):
            return self.family.probe(experts, slots, held_out_only=held_out_only)

    def fit(
        self, experts: em_family.Experts, slots: Sequence[int], weights: Tensor, round_: int
    ) -> em_family.Fit:
        """Train, timed."""
        self.watch.token_rows["training"] += _trained(self.family, round_) * len(slots)
        with self.watch.phase("training"):
            return self.family.fit(experts, slots, weights, round_)


def one_round(silos: Sequence[Silo], bank: Bank, clock: Clock) -> Stopwatch:
    """Run the E-step, evaluation and M-step of ``silos`` and the server's two steps."""
    watch = Stopwatch(clock)
    bank = bank.living()
    assessed = [_assess(silo, _bank_over_the_wire(bank, watch), watch) for silo in silos]
    with watch.phase("server"):
        bank = em.assess_step(bank, reduce(add, assessed))
    weights = _first(bank, silos[0].config.em.top_m)
    for silo in silos:
        _evaluate(silo, Belief(weights, weights, share=0.1), watch)
    updates = [_train(silo, bank, weights, watch) for silo in silos]
    with watch.phase("server"):
        em.train_step(bank, reduce(add, updates), silos=len(silos))
    return watch


def _first(bank: Bank, experts: int) -> Tensor:
    """Return equal weights [K] for the first few experts.

    What a silo infers about random experts is chance; the work of a round must not be.
    """
    weights = torch.zeros_like(bank.prior)
    weights[: min(experts, len(weights))] = 1.0
    return weights / weights.sum()


def _assess(silo: Silo, bank: Bank, watch: Stopwatch) -> Assessment:
    probed = watch.seconds["probe"]
    with watch.phase("weights"):
        _, sums = em.assess(Watched(silo.family, watch), bank, inference(silo.config))
    watch.seconds["weights"] -= watch.seconds["probe"] - probed
    return Assessment.from_arrays(_sums_over_the_wire(sums.arrays(), watch))


def _evaluate(silo: Silo, belief: Belief, watch: Stopwatch) -> None:
    data = silo.family.data
    for phase, part in (
        ("perplexity", replace(data, answered=())),
        ("generation", replace(data, test=())),
    ):
        with watch.phase(phase):
            replace(silo, family=replace(silo.family, data=part)).evaluate(belief)
    watch.token_rows["perplexity"] += _tokens(data.test) * int((belief.predict > 0).sum())


def _train(silo: Silo, bank: Bank, weights: Tensor, watch: Stopwatch) -> Update:
    rule = silo.config.rounds.silo_weight
    update = em.train(Watched(silo.family, watch), bank, weights, 1, silo_weight=rule)  # type: ignore[arg-type]
    return Update.from_arrays(_sums_over_the_wire(update.arrays(), watch))


def _bank_over_the_wire(bank: Bank, watch: Stopwatch) -> Bank:
    with watch.phase("wire"):
        content = RecordDict()
        put_bank(content, bank)
        return get_bank(_moved(content, "down", watch))


def _sums_over_the_wire(sums: Mapping[str, Tensor], watch: Stopwatch) -> dict[str, Tensor]:
    with watch.phase("wire"):
        content = RecordDict()
        put_tensors(content, "sums", sums)
        return get_tensors(_moved(content, "up", watch), "sums")


def _moved(content: RecordDict, way: str, watch: Stopwatch) -> RecordDict:
    payload = recorddict_to_proto(content).SerializeToString()
    watch.bytes_moved[way] += len(payload)
    return recorddict_from_proto(Proto.FromString(payload))


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.ids) for example in examples)


def _trained(family: LanguageFamily, round_: int) -> int:
    """Return the tokens, without padding, of the batches that ``fit`` will draw."""
    rng = stream(family.seed, "batches", family.name, round_)
    batches = shuffled(family.data.train, family.training.batch_size, 0, rng)
    drawn = [row for batch in islice(batches, family.training.steps) for row in batch.rows]
    return _tokens([family.data.train[row] for row in drawn])
