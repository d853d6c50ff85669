"""Ideas of what a probe of many experts can leave out, tried on probes that were made in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median

import torch
from torch import Tensor

from fedvemoe_app.em import successive
from fedvemoe_app.em.family import Probe
from fedvemoe_app.em.responsibilities import infer

Idea = Callable[[Sequence[Probe], Tensor], Iterator[tuple[Tensor, float]]]
"""From a silo's full probes and the prior to its weights [K], and what part was asked for."""
EVERY = 3
"""Rounds after which an expert that was skipped is asked again."""
PARTS = (4, 6, 8, 12)
CLOSE = 0.02


def decisions(silos: Sequence[Sequence[Probe]], prior: Tensor) -> dict[str, dict[str, float]]:
    """Return by idea how far responsibilities are from the full probe's, and what was asked.

    ``silos`` are the full probes of each silo, round by round; ``prior`` is [K].
    """
    ideas: dict[str, Idea] = {
        "every 2nd example": _each(_part, 2),
        "every 4th example": _each(_part, 4),
        **{f"successive, first 1 of {part}": _each(_successive, part) for part in PARTS},
        "skipped by the last probe": _skipping,
    }
    return {idea: _compared(silos, prior, tried) for idea, tried in ideas.items()}


def _compared(silos: Sequence[Sequence[Probe]], prior: Tensor, tried: Idea) -> dict[str, float]:
    errors, asked = [], []
    for probes in silos:
        for probe, (dense, share) in zip(probes, tried(probes, prior), strict=True):
            errors.append(float((dense - _dense(probe.log_lik, prior)).abs().max()))
            asked.append(share)
    errors.sort()
    return {
        "median": median(errors),
        "95 %": errors[int(0.95 * (len(errors) - 1))],
        "largest": errors[-1],
        f"within {CLOSE}": mean(error <= CLOSE for error in errors),
        "asked": mean(asked),
    }


def _dense(log_lik: Tensor, prior: Tensor) -> Tensor:
    return infer(log_lik, prior, top_m=2).dense


def _examples(probe: Probe) -> list[Tensor]:
    return list(torch.split(probe.log_lik, list(probe.lengths)))


def _part(probe: Probe, prior: Tensor, every: int) -> tuple[Tensor, float]:
    part = _examples(probe)[::every]
    return _dense(torch.cat(part), prior), len(part) / len(probe.lengths)


def _each(judge: Callable[[Probe, Tensor, int], tuple[Tensor, float]], every: int) -> Idea:
    """Return the idea that judges each probe by itself, by one of so many examples."""
    return lambda probes, prior: (judge(probe, prior, every) for probe in probes)


def _successive(probe: Probe, prior: Tensor, every: int) -> tuple[Tensor, float]:
    examples = _examples(probe)
    first = examples[::every]
    able, weights, ratios = successive.judged(torch.cat(first), list(map(len, first)))
    rest = [part for number, part in enumerate(examples) if number % every]
    foretold = successive.completed(torch.cat(rest)[:, able], able, weights, ratios)
    share = len(first) / len(examples)
    asked = share + (1 - share) * float(able.double().mean())
    return _dense(torch.cat([*first, foretold]), prior), asked


def _skipping(probes: Sequence[Probe], prior: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Skip whom the last probe found unable; ask everybody again every few rounds."""
    able = torch.ones(len(prior), dtype=torch.bool)
    for number, probe in enumerate(probes):
        if number % EVERY == 0:
            able = torch.ones(len(prior), dtype=torch.bool)
        left = torch.where(able, prior, 0.0)
        yield (
            infer(probe.log_lik, left / left.sum(), top_m=2).dense,
            float(able.double().mean()),
        )
        found, _, _ = successive.judged(probe.log_lik[:, able], probe.lengths)
        able = able.masked_scatter(able, found)
