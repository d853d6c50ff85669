"""The settings that only some strategies read, and the private slot."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """What not every strategy reads; docs/strategies.md says who does."""

    private_slot: str = setting(
        "local",
        "an expert of its own that a silo predicts with as well and never sends: trained on its "
        "data alone, or its copy of its main expert as trained this round (fedvemoe)",
        choices=("off", "local", "tuned"),
    )
    expert_weight: str = setting(
        "posterior",
        "what a silo counts in the mean of an expert: times its mean posterior, or the silo alone",
        choices=("posterior", "silo"),
    )
    proximal_mu: float = setting(0.01, "FedProx: pull of local training to its start", low=0.0)
    ditto_lambda: float = setting(
        1.0, "Ditto: pull of a silo's own expert to the shared one", low=0.0
    )
    server_eta: float = setting(0.01, "FedAdam, FedYogi: step of the server", low=0.0)
    server_beta1: float = setting(
        0.9, "FedAdam, FedYogi, FedAvgM: decay of the first moment", low=0.0, high=0.9999
    )
    server_beta2: float = setting(
        0.99, "FedAdam, FedYogi: decay of the second moment", low=0.0, high=0.9999
    )
    server_tau: float = setting(1e-3, "FedAdam, FedYogi: floor of the root", low=1e-12)
    out_json: str = setting(
        "",
        "local: a file for the local baselines, beside the run's own local_baselines.json",
    )
