"""The settings of federation and local training."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """Federation and local training."""

    strategy: str = setting(
        "fedvemoe",
        "fedvemoe | fedavg | fedprox | fedadam | fedyogi | ifca | fedem | ditto | local | "
        "flwr:<ClassName>",
    )
    num_server_rounds: int = setting(10, "rounds of training", low=1)
    fraction_train: float = setting(1.0, "share of silos that train in a round", low=1e-6, high=1.0)
    min_silos: int = setting(2, "silos that must answer, else a sum is void", low=1)
    void_retries: int = setting(
        3, "how often a void sum is asked for again before the run ends with an error", low=0
    )
    phase_timeout: int = setting(3600, "seconds a silo has to answer in one phase", low=1)
    message_mb: float = setting(32.0, "megabytes a message carries; more go in parts", low=1e-4)
    local_steps: int = setting(30, "optimiser steps of a silo in a round", low=1)
    total_steps: int = setting(
        0, "local steps in all, for strategy local; 0 means rounds times local-steps", low=0
    )
    batch_size: int = setting(8, "sequences in one local step", low=1)
    learning_rate: float = setting(3e-3, "AdamW step size of a silo", low=0.0)
    max_grad_norm: float = setting(1.0, "gradient norm at which one expert is clipped", low=1e-6)
    lora_factors: str = setting(
        "both",
        "factors trained in a round: both (means of B and of A), B and A in turn (the exact mean "
        "of products, half the bytes), or only B",
        choices=("both", "alternate", "B"),
    )
    silo_weight: str = setting(
        "sqrt",
        "what a silo counts in a mean: the root of its tokens, its tokens, or the same for all",
        choices=("sqrt", "tokens", "equal"),
    )
    server_learning_rate: float = setting(1.0, "step of the server along the mean", low=0.0)
    shrinkage: float = setting(
        1.0, "damping by absent silos, in average silos; none when all answer", low=0.0
    )
    row_cap: int = setting(0, "tokens times experts in a forward pass; 0 suits the device", low=0)
    packing: str = setting(
        "auto",
        "several sequences in one row where that is less work and the base can; off pads each",
        choices=("auto", "off"),
    )
