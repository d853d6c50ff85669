"""FedProx (Li et al. 2020): FedAvg with mu/2 |theta - theta_t|^2 in the local loss."""

from __future__ import annotations

from dataclasses import replace

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies import fedavg
from fedvemoe_app.strategies.method import Method


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    plain = fedavg.method(config)
    mu = config.method.proximal_mu
    return replace(plain, name="fedprox", proximal=mu, reads=(*plain.reads, "proximal-mu"))
