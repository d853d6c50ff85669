"""The algebra of a merge: the mean of two products B A, brought back to rank r.

The mean of the factors is not the factor of the mean, and two experts have no common gauge, so
the products are averaged: QR of the stacked factors, SVD of a matrix of 2r x 2r, and no matrix of
the layer's full size is ever formed (method-details.md, 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

Expert = Mapping[str, Tensor]
_LEAST = 1e-6
"""Scale of a row of A without a singular value: it can still learn, for its B starts at zero."""


def merged(experts: Sequence[Expert], weights: Sequence[float]) -> tuple[dict[str, Tensor], float]:
    """Return the weighted mean of ``experts``, each of tensors [1, ...], and the energy it lost.

    Tensors called ``<layer>.A`` [1, r, in] and ``<layer>.B`` [1, out, r] (or plainly ``A`` and
    ``B``) are the factors of a product; any other tensor is averaged as it is. The energy is
    the discarded share of the squared singular values over all layers, in [0, 1).
    """
    shares = [weight / sum(weights) for weight in weights]
    result: dict[str, Tensor] = {}
    lost = total = 0.0
    for name, tensor in experts[0].items():
        if name in result:
            continue
        layer, dot, factor = name.rpartition(".")
        a, b = f"{layer}{dot}A", f"{layer}{dot}B"
        if factor in ("A", "B") and a in experts[0] and b in experts[0]:
            products = [(e[b][0], e[a][0], share) for e, share in zip(experts, shares, strict=True)]
            up, down, singular = refactorised(products, rank=experts[0][a].shape[1])
            result[a], result[b] = _like(down, experts[0][a]), _like(up, experts[0][b])
            energy = singular.square()
            lost += float(energy[experts[0][a].shape[1] :].sum())
            total += float(energy.sum())
        else:
            mean = sum(share * e[name].double() for e, share in zip(experts, shares, strict=True))
            result[name] = torch.as_tensor(mean).to(tensor.dtype)
    return result, lost / total if total > 0 else 0.0


def refactorised(
    products: Sequence[tuple[Tensor, Tensor, float]], *, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return B [out, rank], A [rank, in] and all singular values of ``sum_i w_i B_i A_i``.

    B A is the best approximation of its rank. Both factors carry the root of the singular
    values; where one is zero, A keeps a direction and B none, as at LoRA's start.
    """
    up = torch.cat([weight * b.double() for b, _, weight in products], dim=1)
    down = torch.cat([a.double() for _, a, _ in products], dim=0)
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    u, singular, vt = torch.linalg.svd(upper @ lower.T)
    top = singular[:rank]
    scale = top.clamp(min=_LEAST * float(top.max()) if float(top.max()) > 0 else 1.0).sqrt()
    b = left @ u[:, : len(top)] * (top / scale)
    a = scale.unsqueeze(1) * (vt[: len(top)] @ right.T)
    missing = rank - len(top)  # a layer narrower than the rank
    return pad(b, (0, missing)), pad(a, (0, 0, 0, missing)), singular


def _like(tensor: Tensor, model: Tensor) -> Tensor:
    return tensor.unsqueeze(0).to(model.dtype)
