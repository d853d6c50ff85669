"""The mechanism on named arrays: what may leave, with which noise, and what is not sent at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedvemoe_app.dp import mechanism as module
from fedvemoe_app.dp.fields import BOUNDS, Groups
from fedvemoe_app.dp.guards import guarded
from fedvemoe_app.dp.mechanism import Mechanism
from fedvemoe_app.errors import RunError
from tests.dp.test_noise import bits

MECHANISM = Mechanism(clip=2.0, statistics_clip=1.5, noise=0.7, share=0.2)
VECTORS = ("delta/a", "delta/b")
STEP = 2.0**-20


def upload(scale: float = 1.0, seed: int = 0, size: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "silos": torch.tensor(1.0, dtype=torch.float64),
        "tokens": torch.tensor(812.0, dtype=torch.float64),
        "weight": scale * torch.rand(3, dtype=torch.float64, generator=generator),
        "delta/a": scale * torch.randn(3, size, generator=generator),
        "delta/b": scale * torch.randn(3, 2, 5, generator=generator),
        "squares/a": torch.rand(3, dtype=torch.float64, generator=generator),
        "unheard_of": scale * torch.randn(4, dtype=torch.float64, generator=generator),
        "scores": torch.full((2, 6), 7.0, dtype=torch.float64),
    }


def released(
    mechanism: Mechanism, arrays: dict[str, Tensor], *, seed: int = 0, evaluation: bool = False
) -> dict[str, Tensor]:
    groups = Groups.of(tuple(arrays), VECTORS, evaluation)
    return mechanism.release(arrays, groups, STEP, bits(seed))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the noise away, so that what it would have hidden is seen."""
    monkeypatch.setattr(module, "gaussian_units", lambda size, *_: np.zeros(size, np.int64))


def norm(arrays: list[Tensor]) -> float:
    return math.sqrt(sum(float(array.square().sum()) for array in arrays))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e9])
@pytest.mark.usefixtures("quiet")
def test_no_silo_moves_a_sum_by_more_than_the_clips(scale: float) -> None:
    found = released(MECHANISM, upload(scale))
    assert norm([found[name] for name in VECTORS]) <= MECHANISM.clip
    rest = [found[n] / BOUNDS[n].norm if n in BOUNDS else found[n] for n in ("weight", "scores")]
    assert norm([*rest, found["unheard_of"]]) <= MECHANISM.statistics_clip


@pytest.mark.usefixtures("quiet")
def test_below_the_clips_only_the_grid_is_lost() -> None:
    arrays = upload(0.01)
    found = released(MECHANISM, arrays)
    for name in (*VECTORS, "weight", "unheard_of"):
        assert torch.allclose(found[name], arrays[name].double(), atol=2.0**-19, rtol=0)


@pytest.mark.usefixtures("quiet")
def test_one_wild_statistic_does_not_silence_the_others() -> None:
    arrays = upload(0.1)
    arrays["unheard_of"] *= 1e12
    found = released(MECHANISM, arrays)
    assert torch.allclose(found["weight"], arrays["weight"], atol=1e-3)


def test_what_is_not_needed_is_not_sent_and_scores_leave_exact_by_consent_only() -> None:
    arrays = upload()
    kept, shown = released(MECHANISM, arrays), released(MECHANISM, arrays, evaluation=True)
    assert list(kept) == list(arrays)
    for found in (kept, shown):
        assert found["silos"] == 1
        assert found["tokens"] == 0
        assert not found["squares/a"].any()
    assert torch.equal(shown["scores"], arrays["scores"])
    assert not torch.equal(kept["scores"], arrays["scores"])
    assert kept["scores"].abs().max() < 7.0


def test_the_noise_of_a_sum_has_the_deviation_that_is_accounted_for() -> None:
    silos = 5
    mechanism = Mechanism(clip=2.0, statistics_clip=1.5, noise=0.7, share=0.2, silos=silos)
    zero = {name: torch.zeros_like(array) for name, array in upload(size=2000).items()}
    zero["unheard_of"] = torch.zeros(4000, dtype=torch.float64)
    sums = [released(mechanism, zero, seed=seed) for seed in range(silos)]
    delta = sum(found["delta/a"] for found in sums)
    other = sum(found["unheard_of"] for found in sums)
    assert isinstance(delta, Tensor)
    assert isinstance(other, Tensor)
    vectors, statistics = float(delta.std()) / 2.0, float(other.std()) / 1.5
    assert vectors == pytest.approx(0.7 / math.sqrt(0.8), rel=0.05)
    assert statistics == pytest.approx(0.7 / math.sqrt(0.2), rel=0.05)
    together = (1 / vectors**2 + 1 / statistics**2) ** -0.5
    assert together == pytest.approx(0.7, rel=0.05)  # one Gaussian mechanism of multiplier z


def test_a_sum_of_statistics_alone_has_the_whole_budget() -> None:
    assert MECHANISM.statistics_deviation(vectors=False) == pytest.approx(1.5 * 0.7)


def test_a_noised_value_is_a_multiple_of_its_grid_and_fits_its_word() -> None:
    most = (2**31 - 1) // 12
    step = MECHANISM.vector_step(most)
    arrays = upload(1e6)
    groups = Groups.of(tuple(arrays), VECTORS, False)
    found = MECHANISM.release(arrays, groups, step, bits(0))
    for name in VECTORS:
        units = found[name] / step
        assert torch.equal(units, units.round())
        assert units.abs().max() <= most
    for name in ("weight", "unheard_of", "scores"):
        units = found[name] * 2**24
        assert torch.equal(units, units.round())


@pytest.mark.parametrize("step", [0.0, 1.0, 3e-6])
def test_a_grid_that_would_spoil_the_noise_is_refused(step: float) -> None:
    arrays = upload()
    groups = Groups.of(tuple(arrays), VECTORS, False)
    with pytest.raises(RunError, match="does not fit noise"):
        MECHANISM.release(arrays, groups, step, bits(0))


def test_vectors_must_be_sent() -> None:
    with pytest.raises(RunError, match="that are not sent"):
        Groups.of(("silos",), VECTORS, False)


def test_guards_leave_nothing_that_cannot_be() -> None:
    sums = {
        "mass": torch.tensor([-0.5, 2.0]),
        "gain": torch.tensor([-0.5, 2.0]),
        "weight": torch.tensor([-3.0, 0.2, 5.0, 5.0]),
    }
    found = guarded(sums, [True, True, True, False])
    assert found["mass"].tolist() == [0.0, 2.0]
    assert found["gain"].tolist() == [-0.5, 2.0]
    assert found["weight"].tolist() == [1.0, 1.0, 5.0, 0.0]
    assert guarded(sums, None)["weight"].tolist() == pytest.approx([0.0, 0.2, 5.0, 5.0])
