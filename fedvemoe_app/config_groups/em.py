"""The settings of the bank of experts and of the E-step."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting


@dataclass(frozen=True, slots=True)
class EmSettings:
    """The bank of experts and the E-step."""

    k_init: int = setting(4, "experts alive at the start", low=1)
    k_max: int = setting(12, "slots of the bank", low=1)
    top_m: int = setting(2, "experts that one silo trains at most", low=1)
    rho: float = setting(0.15, "weight below which a silo does not train an expert", low=0, high=1)
    predict_floor: float = setting(
        0.02, "weight below which a silo does not predict with an expert", low=0.0, high=1.0
    )
    responsibility_rule: str = setting(
        "stacking",
        "E-step: mixture weights by stacking, or the softmax of mean losses",
        choices=("stacking", "softmax"),
    )
    kappa: float = setting(100.0, "inverse temperature of the softmax rule, 1/nats", low=0.0)
    gamma: float = setting(1.0, "temperature of the token posterior; 1 is exact EM", low=1e-3)
    tau: float = setting(1.0, "strength of the bank's prior, in pseudo-tokens", low=0.0)
    prior_concentration: float = setting(1.0, "smoothing of the bank's prior", low=0.0)
    probe_tokens: int = setting(
        1000, "target tokens the E-step sees; training examples top up a short probe", low=1
    )
    probing: str = setting(
        "full",
        "with successive, experts that cannot matter on a first sixth of the probe are asked no "
        "further",
        choices=("full", "successive"),
    )
    start: str = setting(
        "sketch",
        "first experts: by clustering gradient sketches, drawn by each silo, or the E-step's",
        choices=("sketch", "random", "none"),
    )
    warmup_rounds: int = setting(3, "rounds in which a silo trains its first expert", low=0)
    sketch_size: int = setting(128, "numbers in a gradient sketch", low=2)
    sketch_restarts: int = setting(64, "k-means restarts, side by side", low=1)
    sketch_iterations: int = setting(4, "k-means iterations, two tiny exchanges each", low=1)
