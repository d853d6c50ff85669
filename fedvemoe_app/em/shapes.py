"""What sums look like before any silo has sent them: names and shapes, known to the server.

A secure sum needs them beforehand, and a silo's reply is checked against them.
"""

from __future__ import annotations

from collections.abc import Mapping

Shapes = dict[str, tuple[int, ...]]


def assessment_shapes(experts: int) -> Shapes:
    """Return the shapes of ``Assessment.arrays()`` for a bank of ``experts`` living experts."""
    scalars = ("silos", "tokens", "score")
    per_expert = ("mass", "contributors", "gain", "gain_variance")
    return {
        **dict.fromkeys(scalars, ()),
        **dict.fromkeys(per_expert, (experts,)),
        "displaced": (experts, experts),
    }


def update_shapes(experts: int, trained: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return the shapes of ``Update.arrays()``; ``trained`` are the tensors [K, ...] that move."""
    return {
        **dict.fromkeys(("silos", "tokens", "loss", "silo_weight"), ()),
        "weight": (experts,),
        **{f"delta/{name}": shape for name, shape in trained.items()},
        **{f"squares/{name}": (experts,) for name in trained},
    }


def unrest_shapes(experts: int) -> Shapes:
    """Return the shapes of ``Unrest.arrays()``, sent beside an assessment's."""
    return {"unhappy": (experts, 2), "shared": (experts, experts), "edge": (), "merged": ()}


def wishes_shapes(experts: int, size: int) -> Shapes:
    """Return the shapes of ``Wishes.arrays()``, sent beside an update's; ``size`` of a wish."""
    return {"wishing": (experts,), **dict.fromkeys(("wishes", "wishes_squared"), (experts, size))}


def seeds_shapes(trained: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return the shapes of ``Seeds.arrays()``, sent in a round with a birth."""
    scalars = dict.fromkeys(("seeds", "seed_weight"), ())
    return {**scalars, **{f"seed/{name}": (1, *shape[1:]) for name, shape in trained.items()}}


def moments_shapes(size: int) -> Shapes:
    """Return the shapes of ``Moments.arrays()`` for sketches of ``size`` numbers."""
    return {"silos": (), "first": (size,), "second": (size, size)}


def clusters_shapes(restarts: int, clusters: int, size: int) -> Shapes:
    """Return the shapes of ``Clusters.arrays()``."""
    return {
        "members": (restarts, clusters),
        "vectors": (restarts, clusters, size),
        "cosine": (restarts,),
    }
