"""Stacked experts against the adapter loop: first the same numbers, then seconds and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import peak_above_rest
from benchmarks.peft_loop import PeftLoop
from benchmarks.timing import Clock, Pairs, Work, in_turns
from benchmarks.workload import Workload, token_rows
from fedvemoe_app.errors import RunError
from fedvemoe_app.model.family import LanguageFamily
from fedvemoe_app.model.generation import generate
from fedvemoe_app.model.likelihood import token_log_lik
from fedvemoe_app.model.training import Optimizer, fit

FINE = 1e-4
COARSE = 3e-2  # where activations have fewer bits: the loop casts them up, we cast adapters down


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work in both ways.

    ``disagreement`` runs both and returns how far their numbers are apart, relative to the
    loop's, which rounding explains up to ``limit``; it is None where the two do not compute the
    same thing.
    """

    phase: str
    length: str
    experts: int
    tokens: int
    ours: Work
    loop: Work
    disagreement: Callable[[], float] | None
    limit: float
    variant: str = ""

    @property
    def name(self) -> str:
        """Phase, number of experts, length, variant of the loop."""
        letter = "K" if self.phase == "probe" else "m"
        return f"{self.phase} {letter}={self.experts} {self.length} {self.variant}".rstrip()


@dataclass(frozen=True, slots=True)
class Result:
    """What a case took: seconds, and peak bytes above rest (None where unknown)."""

    case: Case
    error: float | None
    pairs: Pairs
    memory_ours: int | None
    memory_loop: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "phase": self.case.phase,
            "length": self.case.length,
            "experts": self.case.experts,
            "variant": self.case.variant,
            "token_rows": self.case.tokens,
            "relative_error": self.error,
            "equal_work": self.case.disagreement is not None,
            "seconds_ours": self.pairs.ours,
            "seconds_loop": self.pairs.loop,
            "speed_up_median": self.pairs.speed_up,
            "speed_up_min": min(self.pairs.ratios),
            "peak_bytes_ours": self.memory_ours,
            "peak_bytes_loop": self.memory_loop,
        }


def compare(cases: Sequence[Case], repeats: int, clock: Clock) -> list[Result]:
    """Check all cases before any is timed; RunError if one is not equal work."""
    errors = [case.disagreement() if case.disagreement else None for case in cases]
    for case, error in zip(cases, errors, strict=True):
        if error is not None and not error <= case.limit:
            raise RunError(
                f"{case.name}: stacked experts and the adapter loop differ by {error:.2g} "
                f"(relative, at most {case.limit:.2g} is rounding): a ratio would compare "
                "different work"
            )
    return [
        _measure(case, error, repeats, clock) for case, error in zip(cases, errors, strict=True)
    ]


def _measure(case: Case, error: float | None, repeats: int, clock: Clock) -> Result:
    """Time both ways in turns, then take each one's peak memory."""
    case.ours()
    case.loop()
    pairs = in_turns(case.ours, case.loop, repeats, clock)
    peaks = [peak_above_rest(work, clock.device) for work in (case.ours, case.loop)]
    return Result(case, error, pairs, *peaks)


def _limit(loop: PeftLoop) -> float:
    return FINE if loop.backbone.model.dtype == torch.float32 else COARSE


def probe_case(family: LanguageFamily, loop: PeftLoop, work: Workload, experts: int) -> Case:
    """Probe ``experts`` experts."""
    slots = range(experts)

    def ours() -> Tensor:
        return token_log_lik(family.experts, work.probe, slots, row_cap=family.row_cap)[0]

    def theirs() -> Tensor:
        return loop.probe(work.probe, slots)

    def disagreement() -> float:
        return _apart(ours(), theirs())

    tokens = token_rows(work.probe, experts)
    return Case("probe", work.length, experts, tokens, ours, theirs, disagreement, _limit(loop))


def training_case(
    family: LanguageFamily,
    loop: PeftLoop,
    work: Workload,
    experts: int,
    *,
    one_pass: bool = False,
) -> Case:
    """Train B of ``experts`` experts for a few steps, as in a first round.

    The check trains both factors by plain gradient steps: AdamW would blow up the rounding
    errors of entries without a gradient to full steps.
    """
    options = family.training
    slots, weights = range(experts), torch.full((experts,), 1 / experts, dtype=torch.float64)
    start = family.experts.state()

    def ours(
        factor: Any = "B", rate: float = options.learning_rate, optimizer: Optimizer = "adamw"
    ) -> dict[str, Tensor]:
        family.experts.load(start)
        return fit(
            family.experts,
            iter(work.train),
            slots,
            weights,
            factor=factor,
            steps=len(work.train),
            learning_rate=rate,
            row_cap=family.row_cap,
            max_grad_norm=options.max_grad_norm,
            optimizer=optimizer,
        ).delta

    def theirs(
        factor: Any = "B", rate: float = options.learning_rate, optimizer: Optimizer = "adamw"
    ) -> dict[str, Tensor]:
        loop.reset()
        return loop.fit(
            work.train,
            slots,
            weights,
            factor=factor,
            learning_rate=rate,
            max_grad_norm=options.max_grad_norm,
            optimizer=optimizer,
            one_pass=one_pass,
        )

    def disagreement() -> float:
        mine, other = ours("both", 0.1, "sgd"), theirs("both", 0.1, "sgd")
        return max(_apart(mine[name], other[name]) for name in other)

    tokens = token_rows(work.train, experts)
    variant = "1 pass" if one_pass else ""
    limit = _limit(loop)
    return Case(
        "training", work.length, experts, tokens, ours, theirs, disagreement, limit, variant
    )


def generation_case(
    family: LanguageFamily,
    loop: PeftLoop,
    work: Workload,
    experts: int,
    max_new_tokens: int,
) -> Case:
    """Answer with a mixture, greedily; for m > 1 the loop can only answer m times."""
    slots, weights = range(experts), torch.full((experts,), 1 / experts, dtype=torch.float64)

    def ours() -> list[list[int]]:
        return generate(
            family.experts, work.prompts, slots, weights, 0.1, max_new_tokens=max_new_tokens
        )

    def theirs() -> list[list[list[int]]]:
        return [loop.generate(work.prompts, slot, max_new_tokens=max_new_tokens) for slot in slots]

    def disagreement() -> float:
        pairs = zip(ours(), theirs()[0], strict=True)
        return sum(mine != other for mine, other in pairs) / len(work.prompts)

    tokens = experts * sum(len(prompt) for prompt in work.prompts)
    # With fewer bits a near-tie between two tokens may fall either way.
    limit = 0.0 if _limit(loop) == FINE else 1.0
    check = disagreement if experts == 1 else None
    return Case("generation", work.length, experts, tokens, ours, theirs, check, limit)


def _apart(ours: Tensor, loop: Tensor) -> float:
    return float((ours - loop).norm() / loop.norm())
