"""What the settings of a run mean to a silo's work: thresholds, objectives, numbers of slots."""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em import round as em
from fedvemoe_app.em.lifecycle.rules import Rules
from fedvemoe_app.model.family import Training
from fedvemoe_app.strategies.registry import method_of


def inference(config: RunConfig) -> em.Inference:
    """Return the settings of the E-step."""
    settings = config.em
    return em.Inference(
        top_m=settings.top_m,
        rho=settings.rho,
        predict_floor=settings.predict_floor,
        tau=settings.tau,
        rule=method_of(config).rule or settings.responsibility_rule,  # type: ignore[arg-type]
        kappa=settings.kappa,
        gamma=settings.gamma,
    )


def rules(config: RunConfig) -> Rules:
    """Return the thresholds of the lifecycle; silos and server read the same settings."""
    settings = config.lifecycle
    return Rules(
        regret_threshold=settings.regret_threshold,
        birth_worth=settings.birth_worth,
        prune_worth=settings.prune_worth,
        trial_rounds=settings.trial_rounds,
        patience=settings.patience,
        cool_down=settings.cool_down,
        merge_share=settings.merge_share,
        warm_up=max(settings.quiet_rounds, config.em.warmup_rounds),
        c_min=config.output.c_min,
        seed=config.output.seed,
    )


def training(config: RunConfig) -> Training:
    """Return the settings of local training."""
    method = method_of(config)
    by_posterior = "expert-weight" not in method.reads
    return Training(
        steps=config.rounds.local_steps,
        batch_size=config.rounds.batch_size,
        learning_rate=config.rounds.learning_rate,
        max_grad_norm=config.rounds.max_grad_norm,
        gamma=config.em.gamma,
        factors=config.rounds.lora_factors,  # type: ignore[arg-type]
        proximal=method.proximal,
        posterior=method.posterior,
        expert_weight="posterior" if by_posterior else config.method.expert_weight,  # type: ignore[arg-type]
    )


def trained_of(config: RunConfig) -> int:
    """Return how many of the bank's experts a silo trains in one pass at most."""
    em = config.em
    return {"argmin": 1, "sequence": em.k_max}.get(inference(config).rule, em.top_m)


def slots_of(config: RunConfig) -> int:
    """Return how many experts are resident: the bank's, and one more where there may be one.

    That is the silo's own, or a merged expert that is tried beside the whole bank.
    """
    method = method_of(config)
    merging = method.lifecycle and config.lifecycle.lifecycle and config.em.k_max > 1
    return config.em.k_max + (method.personal != "none" or merging)
