"""FedEM (Marfoq et al. 2021): every silo trains all experts, each example drawn from one.

``q_sk ~ omega_ik exp(sum_t log p_k(y_t))``; omega_i is inferred to convergence on the silo's
probe, where the paper takes one step on its training data. ``expert-weight = silo`` is the
paper's mean over silos; by default silos also count by their mean posterior, without which an
optimiser of Adam's kind lets every silo push every expert alike (method-details.md, 1.6).
"""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.method import Method, weighted_mean


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return Method(
        "fedem",
        weighted_mean(config),
        rule="sequence",
        posterior="sequence",
        told_apart=True,
        reads=("server-learning-rate", "expert-weight"),
    )
