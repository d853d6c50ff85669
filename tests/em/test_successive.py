"""A probe in two parts believes what a full one believes, and asks hopeless experts less."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.responsibilities import infer, stack
from fedvemoe_app.em.successive import PART, completed, judged

LENGTH, EXAMPLES = 10, 120


def probe(seed: int, shares: list[float], hopeless: int = 8) -> Tensor:
    """Return [T, K] of examples each drawn from one of some experts; the others suit none."""
    rng = seeds.stream(seed, "successive")
    experts = len(shares)
    owners = rng.choice(experts, size=EXAMPLES, p=shares)
    table = rng.normal(-2.0, 0.6, (EXAMPLES * LENGTH, experts + hopeless))
    table[:, experts:] -= 1.0
    for token, owner in enumerate(owners.repeat(LENGTH)):
        table[token, owner] += 1.5
    return torch.from_numpy(table)


def in_two_parts(log_lik: Tensor) -> tuple[Tensor, Tensor]:
    examples = log_lik.split(LENGTH)
    first = torch.cat(examples[::PART])
    able, weights, ratios = judged(first, [LENGTH] * len(examples[::PART]))
    whole = []
    for number, part in enumerate(examples):
        rest = completed(part[:, able], able, weights, ratios)
        whole.append(rest if number % PART else part)
    return torch.cat(whole), able


@pytest.mark.parametrize("shares", [[1.0], [0.7, 0.3], [0.5, 0.3, 0.2]])
@pytest.mark.parametrize("seed", range(4))
def test_responsibilities_are_those_of_the_full_probe(seed: int, shares: list[float]) -> None:
    """Goes red when the able are chosen by their weight alone, or hopeless ones are left at 0."""
    full = probe(seed, shares)
    parts, able = in_two_parts(full)
    prior = torch.full((full.shape[1],), 1 / full.shape[1], dtype=torch.float64)
    one, other = (infer(table, prior, top_m=2) for table in (full, parts))
    for field in ("dense", "predict", "train"):
        assert (getattr(one, field) - getattr(other, field)).abs().max() < 0.02
    assert able[: len(shares)].all()
    assert not able[len(shares) :].any()


def test_an_expert_that_is_as_good_as_the_best_is_never_dropped() -> None:
    """Twins share the weight in any proportion: a small weight says nothing against either."""
    full = probe(0, [1.0])
    twin = torch.cat([full, full[:, :1] + 1e-9], dim=1)
    able, _, ratios = judged(twin[:300], [LENGTH] * 30)
    assert able[0]
    assert able[-1]
    assert float(ratios[-1]) == pytest.approx(1.0, abs=0.01)


def test_what_is_foretold_keeps_the_ratio_and_the_columns_asked_are_untouched() -> None:
    full = probe(1, [0.6, 0.4])
    able, weights, ratios = judged(full[:300], [LENGTH] * 30)
    rest = full[300:][:, able]
    whole = completed(rest, able, weights, ratios)
    assert torch.equal(whole[:, able], rest)
    mixture = torch.logsumexp(rest + (weights[able] / weights[able].sum()).log(), dim=1)
    foretold = (whole[:, ~able] - mixture.unsqueeze(1)).exp().mean(dim=0)
    assert torch.allclose(foretold, ratios[~able])
    weights = stack(whole, torch.full((len(able),), 1 / len(able), dtype=torch.float64))
    assert float(weights[~able].sum()) < 0.01
