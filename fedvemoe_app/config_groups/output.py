"""The settings of what is scored, where results go, and who may see what."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import setting


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is scored, and how much of it."""

    eval_every: int = setting(1, "rounds between evaluations on test data", low=1)
    eval_examples: int = setting(100, "test examples per task for perplexity; 0 is all", low=0)
    generate_examples: int = setting(
        8, "test examples per task answered for ROUGE-L and exact match; 0 is none", low=0
    )
    max_new_tokens: int = setting(32, "longest generated answer in tokens", low=1)
    local_baseline_json: str = setting("", "local baselines, for negative transfer")


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """Where results go and who may see what."""

    log_dir: str = setting("runs", "folder that holds the folders of runs")
    run_name: str = setting("", "the run's folder; empty makes one from date and time")
    resume: str = setting("", "folder of an interrupted run that goes on; empty begins a new run")
    keep_checkpoints: int = setting(
        2, "rounds whose whole state stays on disk, to resume from", low=1
    )
    privacy: str = setting("secagg", "how sums are formed", choices=("secagg", "sim", "none"))
    c_min: int = setting(
        0, "least silos in the sum of an expert's changes; 0 is 3 if silos suffice", low=0
    )
    min_survivors: int = setting(3, "silos that a secure sum holds at least", low=3)
    roster: str = setting("", "the consortium's signed roster, for the server; empty in simulation")
    consortium_key: str = setting("", "the consortium's public key in hex, which signed the roster")
    secagg_bits: int = setting(
        32, "bits of a word of a secure sum; 16 suffice for 16 silos", choices=(32, 16)
    )
    confirm: bool = setting(False, "silos sign who is in a sum before they unmask it")
    reporting: str = setting(
        "auto",
        "figures per silo (full) or sums only; auto is full, with a roster aggregate",
        choices=("auto", "full", "aggregate"),
    )
    trackers: str = setting("auto", "auto | none | tensorboard, wandb, mlflow by comma")
    seed: int = setting(0, "seed of every random stream", low=0)

    @property
    def reports(self) -> str:
        """What ``reporting`` stands for: ``auto`` is ``full``, in a deployment ``aggregate``.

        A run is a deployment where it has a roster. Server and silos each ask for themselves.
        """
        if self.reporting != "auto":
            return self.reporting
        return "aggregate" if self.roster else "full"
