"""Stacked experts against plain PEFT: first the same numbers, then seconds and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import Machine, flops
from benchmarks.memory import peak_above_rest
from benchmarks.peft_loop import PeftLoop, Way
from benchmarks.timing import Clock, Pairs, Work, in_turns
from benchmarks.workload import Workload, target_rows, token_rows
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.training import Optimizer, fit

FINE = 1e-4
COARSE = 3e-2  # where activations have fewer bits: the loop casts them up, we cast adapters down
LEARNING_RATE, MAX_GRAD_NORM = 3e-3, 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work in our way and in others, by name.

    ``disagreements`` run ours and another and return how far their numbers are apart, relative
    to the other's, which rounding explains up to ``limit``; a name is missing where the two do
    not compute the same thing. ``flops`` is the work's arithmetic, 0 where it is not counted.
    """

    phase: str
    length: str
    experts: int
    tokens: int
    flops: float
    ours: Work
    others: Mapping[str, Work]
    disagreements: Mapping[str, Callable[[], float]]
    limit: float

    @property
    def name(self) -> str:
        """Phase, number of experts, length."""
        letter = "K" if self.phase == "probe" else "m"
        return f"{self.phase} {letter}={self.experts} {self.length}".rstrip()


@dataclass(frozen=True, slots=True)
class Result:
    """What a case took: seconds, and peak bytes above rest (None where unknown), by way."""

    case: Case
    errors: Mapping[str, float]
    pairs: Mapping[str, Pairs]
    memory: Mapping[str, int | None]
    floor: float

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "phase": self.case.phase,
            "length": self.case.length,
            "experts": self.case.experts,
            "token_rows": self.case.tokens,
            "flops": self.case.flops,
            "floor_seconds": self.floor,
            "peak_bytes": dict(self.memory),
            "others": {
                way: {
                    "relative_error": self.errors.get(way),
                    "seconds_ours": pairs.ours,
                    "seconds": pairs.other,
                    "speed_up_median": pairs.speed_up,
                    "speed_up_min": min(pairs.ratios),
                }
                for way, pairs in self.pairs.items()
            },
        }


def compare(cases: Sequence[Case], repeats: int, clock: Clock, machine: Machine) -> list[Result]:
    """Check all cases before any is timed; RunError if one is not equal work."""
    errors = [{way: differ() for way, differ in case.disagreements.items()} for case in cases]
    for case, found in zip(cases, errors, strict=True):
        for way, error in found.items():
            if not error <= case.limit:
                raise RunError(
                    f"{case.name}: stacked experts and the {way} differ by {error:.2g} "
                    f"(relative, at most {case.limit:.2g} is rounding): a ratio would compare "
                    "different work"
                )
    return [
        _measure(case, found, repeats, clock, machine)
        for case, found in zip(cases, errors, strict=True)
    ]


def _measure(
    case: Case, errors: Mapping[str, float], repeats: int, clock: Clock, machine: Machine
) -> Result:
    """Time all ways in turns, then take each one's peak memory."""
    works = {"ours": case.ours, **case.others}
    for work in works.values():
        work()
    seconds = dict(zip(works, in_turns(list(works.values()), repeats, clock), strict=True))
    pairs = {way: Pairs(seconds["ours"], seconds[way]) for way in case.others}
    memory = {way: peak_above_rest(work, clock.device) for way, work in works.items()}
    return Result(case, errors, pairs, memory, case.flops / machine.rate)


def limit_of(loop: PeftLoop) -> float:
    """Return the relative difference that rounding explains."""
    return FINE if loop.backbone.model.dtype == torch.float32 else COARSE


def probe_case(experts: Experts, loop: PeftLoop, work: Workload, probed: int, row_cap: int) -> Case:
    """Probe ``probed`` experts."""
    slots = range(probed)

    def ours() -> Tensor:
        return token_log_lik(experts, work.probe, slots, row_cap=row_cap)[0]

    others = {
        "loop": lambda: loop.probe(work.probe, slots),
        "mixed batch": lambda: loop.probe_mixed(work.probe, slots),
    }
    return Case(
        "probe",
        work.length,
        probed,
        token_rows(work.probe, probed),
        flops(experts.backbone.model, work.probe, probed, target_rows(work.probe, probed)),
        ours,
        others,
        {way: apart_from(ours, other) for way, other in others.items()},
        limit_of(loop),
    )


def training_case(
    experts: Experts,
    loop: PeftLoop,
    work: Workload,
    trained: int,
    row_cap: int,
    ways: Sequence[Way] = ("two passes", "one pass", "mixed batch"),
) -> Case:
    """Train B of ``trained`` experts for a few steps, as in a first round.

    The check trains both factors by plain gradient steps: AdamW would blow up the rounding
    errors of entries without a gradient to full steps.
    """
    slots, weights = range(trained), torch.full((trained,), 1 / trained, dtype=torch.float64)
    start = experts.state()

    def ours(
        factor: Any = "B", rate: float = LEARNING_RATE, optimizer: Optimizer = "adamw"
    ) -> dict[str, Tensor]:
        experts.load(start)
        return fit(
            experts,
            iter(work.train),
            slots,
            weights,
            factor=factor,
            steps=len(work.train),
            learning_rate=rate,
            row_cap=row_cap,
            max_grad_norm=MAX_GRAD_NORM,
            optimizer=optimizer,
        ).delta

    def theirs(
        way: Way, factor: Any = "B", rate: float = LEARNING_RATE, optimizer: Optimizer = "adamw"
    ) -> dict[str, Tensor]:
        loop.reset()
        return loop.fit(
            work.train,
            slots,
            weights,
            factor=factor,
            learning_rate=rate,
            max_grad_norm=MAX_GRAD_NORM,
            optimizer=optimizer,
            way=way,
        )

    def disagreement(way: Way) -> float:
        mine, other = ours("both", 0.1, "sgd"), theirs(way, "both", 0.1, "sgd")
        return max(_apart(mine[name], other[name]) for name in other)

    rows = token_rows(work.train, trained)
    return Case(
        "training",
        work.length,
        trained,
        rows,
        2 * flops(experts.backbone.model, work.train, trained, target_rows(work.train, trained)),
        ours,
        {way: partial(theirs, way) for way in ways},
        {way: partial(disagreement, way) for way in ways},
        limit_of(loop),
    )


def generation_case(
    experts: Experts, loop: PeftLoop, work: Workload, mixed: int, max_new_tokens: int
) -> Case:
    """Answer with a mixture, greedily; for m > 1 the loop can only answer m times."""
    slots, weights = range(mixed), torch.full((mixed,), 1 / mixed, dtype=torch.float64)

    def ours() -> list[list[int]]:
        return generate(experts, work.prompts, slots, weights, 0.1, max_new_tokens=max_new_tokens)

    def theirs() -> list[list[list[int]]]:
        return [loop.generate(work.prompts, slot, max_new_tokens=max_new_tokens) for slot in slots]

    def disagreement() -> float:
        pairs = zip(ours(), theirs()[0], strict=True)
        return sum(mine != other for mine, other in pairs) / len(work.prompts)

    # With fewer bits a near-tie between two tokens may fall either way.
    limit = 0.0 if limit_of(loop) == FINE else 1.0
    tokens = mixed * sum(len(prompt) for prompt in work.prompts)
    checks = {"loop": disagreement} if mixed == 1 else {}
    return Case(
        "generation", work.length, mixed, tokens, 0.0, ours, {"loop": theirs}, checks, limit
    )


def apart_from(ours: Callable[[], Tensor], other: Callable[[], Tensor]) -> Callable[[], float]:
    """Return what tells how far two works' numbers are apart, relative to the other's."""
    return lambda: _apart(ours(), other())


def _apart(ours: Tensor, other: Tensor) -> float:
    return float((ours - other).norm() / other.norm())
