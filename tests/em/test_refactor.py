"""The algebra of a merge: the mean of products, at the rank of an expert."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedvemoe_app import seeds
from fedvemoe_app.em.lifecycle.refactor import merged, refactorised


def factors(seed: int, *, rank: int = 4, out: int = 12, into: int = 9) -> tuple[Tensor, Tensor]:
    rng = seeds.stream(seed, "factors")
    up, down = rng.standard_normal((out, rank)), rng.standard_normal((rank, into))
    return torch.from_numpy(up), torch.from_numpy(down)


def expert(seed: int) -> dict[str, Tensor]:
    up, down = factors(seed)
    return {"x.A": down.unsqueeze(0), "x.B": up.unsqueeze(0)}


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_it_is_the_dense_truncated_svd(rank: int) -> None:
    """Goes red when a weight, a root of a singular value or a factor's turn is wrong."""
    (b1, a1), (b2, a2) = factors(0), factors(1)
    b, a, singular = refactorised([(b1, a1, 0.3), (b2, a2, 0.7)], rank=rank)
    u, s, vt = torch.linalg.svd(0.3 * b1 @ a1 + 0.7 * b2 @ a2)
    assert torch.allclose(b @ a, u[:, :rank] * s[:rank] @ vt[:rank], atol=1e-10)
    assert torch.allclose(singular, s[:8], atol=1e-10)
    assert torch.allclose((b**2).sum(dim=0), (a**2).sum(dim=1), atol=1e-10)


def test_it_is_exact_where_the_rank_suffices() -> None:
    (b1, a1), (b2, a2) = factors(2, rank=2), factors(3, rank=2)
    b, a, _ = refactorised([(b1, a1, 0.5), (b2, a2, 0.5)], rank=4)
    assert torch.allclose(b @ a, 0.5 * b1 @ a1 + 0.5 * b2 @ a2, atol=1e-12)


def test_one_expert_in_two_gauges_stays_what_it_is() -> None:
    """Goes red when factors are averaged: the mean of two gauges is another expert."""
    one, turn = expert(4), torch.linalg.qr(factors(5, rank=4, out=4)[0]).Q
    other = {"x.A": turn.T @ one["x.A"], "x.B": one["x.B"] @ turn}
    joint, lost = merged([one, other], [3.0, 1.0])
    assert torch.allclose(joint["x.B"] @ joint["x.A"], one["x.B"] @ one["x.A"], atol=1e-10)
    assert lost < 1e-20


def test_the_lost_energy_is_that_of_what_was_cut() -> None:
    one, other = expert(6), expert(7)
    joint, lost = merged([one, other], [1.0, 1.0])
    whole = (one["x.B"] @ one["x.A"] + other["x.B"] @ other["x.A"])[0] / 2
    rest = whole - (joint["x.B"] @ joint["x.A"])[0]
    assert lost == pytest.approx(float(rest.square().sum() / whole.square().sum()), rel=1e-9)
    assert joint["x.A"].shape == one["x.A"].shape
    assert joint["x.B"].dtype is one["x.B"].dtype


def test_experts_at_the_start_can_still_learn_after_a_merge() -> None:
    """With B = 0 the product says nothing; A must not be zero as well."""
    start = {"A": expert(8)["x.A"].float(), "B": torch.zeros(1, 12, 4)}
    joint, lost = merged([start, start], [1.0, 1.0])
    assert not joint["B"].any()
    assert bool((joint["A"].norm(dim=2) > 0.5).all())
    assert lost == 0.0


def test_a_layer_narrower_than_the_rank_keeps_its_shape() -> None:
    one = {"A": torch.ones(1, 4, 3), "B": torch.ones(1, 2, 4)}
    joint, _ = merged([one, one], [1.0, 1.0])
    assert {name: stack.shape for name, stack in joint.items()} == {
        name: stack.shape for name, stack in one.items()
    }
    assert torch.allclose(joint["B"] @ joint["A"], one["B"] @ one["A"])


def test_other_tensors_are_averaged_by_weight() -> None:
    one, other = {"faces": torch.tensor([[1.0, 0.0]])}, {"faces": torch.tensor([[0.0, 1.0]])}
    assert merged([one, other], [1.0, 3.0])[0]["faces"].tolist() == [[0.25, 0.75]]
