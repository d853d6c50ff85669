"""What probes could leave out: costs nothing where experts differ clearly, and shows where not."""

from __future__ import annotations

import torch

from benchmarks.probe_ideas import decisions
from fedvemoe_app.em.family import Probe
from fedvemoe_app.em.successive import PART

EXPERTS, TOKENS, EXAMPLES = 6, 5, 80
SUCCESSIVE = f"successive, first 1 of {PART}"


def probe(seed: int, good: int) -> Probe:
    """Random likelihoods; expert ``good`` is two nats a token ahead of the others."""
    rng = torch.Generator().manual_seed(seed)
    log_lik = -2.0 - torch.rand(TOKENS * EXAMPLES, EXPERTS, generator=rng, dtype=torch.float64)
    log_lik[:, good] += 2.0
    return Probe(log_lik, (TOKENS,) * EXAMPLES, held_out=EXAMPLES)


PRIOR = torch.full((EXPERTS,), 1 / EXPERTS, dtype=torch.float64)


def test_clear_experts_are_found_with_less_work() -> None:
    silos = [[probe(10 * silo + round_, good=silo) for round_ in range(3)] for silo in range(2)]
    found = decisions(silos, PRIOR)
    assert found["every 2nd example"]["asked"] == 0.5
    assert found["every 4th example"]["asked"] == 0.25
    assert found[SUCCESSIVE]["asked"] < 0.5
    assert found["skipped by the last probe"]["asked"] < 0.5
    for idea in (SUCCESSIVE, "skipped by the last probe"):
        assert found[idea]["largest"] < 0.02, idea
        assert found[idea]["within 0.02"] == 1.0


def test_an_expert_that_changes_is_missed_by_who_skips_it_and_the_error_says_so() -> None:
    """The third probe, asked of everybody again, is right; the second is not."""
    silos = [[probe(0, good=0), probe(1, good=3), probe(2, good=0)]]
    found = decisions(silos, PRIOR)
    assert found["skipped by the last probe"]["largest"] > 0.9
    assert found[SUCCESSIVE]["largest"] < 0.02
