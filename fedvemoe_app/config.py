"""Every setting of a run, its default and its bounds: the only reader of the run configuration.

pyproject's ``[tool.flwr.app.config]`` and docs/configuration.md are generated from this tree
(``fedvemoe settings``), and a test keeps the three equal. Inside the package a function
takes plain values or the one group it works from, never the tree and a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedvemoe_app.errors import SettingError
from fedvemoe_app.settings import flatten, read, setting

BUILT_STRATEGIES = ("fedvemoe",)
BUILT_PRIVACY = ("none", "sim", "secagg")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The frozen base and the shape of an expert on it."""

    model_name: str = setting(
        "builtin:tiny", "base model: a hub name, a local folder, or builtin:tiny (built once)"
    )
    base_model: str = setting("", "another name for model-name; leave empty to use model-name")
    dtype: str = setting(
        "auto",
        "number format of the base; auto is the checkpoint's own on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    use_4bit: bool = setting(False, "quantise the base to 4-bit NF4 with bitsandbytes (QLoRA)")
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    device: str = setting("auto", "auto | cpu | cuda | cuda:N; auto is a GPU where there is one")
    torch_threads: int = setting(0, "CPU threads of a silo's process; 0 leaves torch's own", low=0)
    lora_rank: int = setting(8, "rank r of an expert", low=1)
    lora_alpha: float = setting(16.0, "LoRA scale; products BA are scaled by alpha / r", low=1e-6)
    target_modules: str = setting(
        "all-linear", "layers that get experts: all-linear, or names separated by commas"
    )

    @property
    def targets(self) -> str | tuple[str, ...]:
        """The target modules in the form PEFT takes."""
        names = _listed(self.target_modules)
        return names[0] if names == ("all-linear",) else names


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The task bank and who holds which task."""

    dataset_name: str = setting(
        "builtin:tasks", "task bank: a hub name, a local folder or file, or builtin:tasks"
    )
    streaming: bool = setting(False, "read the bank as a stream, holding only assigned tasks")
    client_task_mode: str = setting(
        "keyword",
        "how silos get tasks: by keyword in definitions, by a map file, or in turn",
        choices=("keyword", "explicit", "round-robin"),
    )
    keyword_categories: str = setting(
        "translation,reasoning,code,rewriting", "categories given to silos in turn, by comma"
    )
    keyword_file: str = setting("", "TOML file with own keyword lists; empty uses the built-in")
    assignment_file: str = setting("", "JSON or TOML map silo -> tasks, for explicit")
    tasks_per_category: int = setting(3, "tasks of its category that a silo holds", low=1)
    max_instances: int = setting(0, "instances kept per task and split; 0 keeps all", low=0)
    probe_fraction: float = setting(
        0.15, "share of a task's training part set aside as probe", low=0.01, high=0.5
    )
    seq_len: int = setting(128, "longest sequence in tokens, prompt and answer", low=8)

    @property
    def categories(self) -> tuple[str, ...]:
        """The keyword categories, in the order in which silos get them."""
        return _listed(self.keyword_categories)


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """Federation and local training."""

    strategy: str = setting(
        "fedvemoe", "the federated algorithm; this version has: " + ", ".join(BUILT_STRATEGIES)
    )
    num_server_rounds: int = setting(10, "rounds of training", low=1)
    fraction_train: float = setting(
        1.0, "share of the silos asked to train in a round", low=1e-6, high=1.0
    )
    min_silos: int = setting(2, "silos that must answer, else the run ends with an error", low=1)
    phase_timeout: int = setting(3600, "seconds a silo has to answer in one phase", low=1)
    local_steps: int = setting(30, "optimiser steps of a silo in a round", low=1)
    total_steps: int = setting(
        0, "local steps in all, for strategy local; 0 means rounds times local-steps", low=0
    )
    batch_size: int = setting(8, "sequences in one local step", low=1)
    learning_rate: float = setting(3e-3, "AdamW step size of a silo", low=0.0)
    max_grad_norm: float = setting(1.0, "gradient norm at which one expert is clipped", low=1e-6)
    lora_factors: str = setting(
        "alternate",
        "factors trained in a round: B and A in turn (exact), only B, or both (inexact mean)",
        choices=("alternate", "B", "both"),
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
    start: str = setting(
        "sketch",
        "first experts: by clustering gradient sketches, or every silo on its own E-step",
        choices=("sketch", "none"),
    )
    warmup_rounds: int = setting(3, "rounds in which a silo trains its start cluster", low=0)
    sketch_size: int = setting(32, "numbers in a gradient sketch", low=2)
    sketch_restarts: int = setting(64, "k-means restarts, side by side", low=1)
    sketch_iterations: int = setting(4, "k-means iterations, two tiny exchanges each", low=1)


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
    privacy: str = setting(
        "secagg", "how sums are formed; this version has: " + ", ".join(BUILT_PRIVACY)
    )
    c_min: int = setting(
        0, "least silos in the sum of an expert's changes; 0 is 3 if silos suffice", low=0
    )
    min_survivors: int = setting(3, "silos that a secure sum holds at least", low=3)
    roster: str = setting("", "the consortium's signed roster, for the server; empty in simulation")
    consortium_key: str = setting("", "the consortium's public key in hex, which signed the roster")
    confirm: bool = setting(
        False, "silos sign who is in a sum before they unmask it (against an active server)"
    )
    reporting: str = setting(
        *("auto", "figures per silo, or sums only; auto is full, with a roster aggregate"),
        choices=("auto", "full", "aggregate"),
    )
    seed: int = setting(0, "seed of every random stream", low=0)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of one run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    rounds: RoundSettings = field(default_factory=RoundSettings)
    em: EmSettings = field(default_factory=EmSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> RunConfig:
        """Read and check a flat run configuration; raises SettingError."""
        config = _with_alias(read(cls, flat))
        _check(config)
        return config

    def to_flat(self) -> dict[str, bool | int | float | str]:
        """Return the flat form: ``RunConfig.from_flat(c.to_flat()) == c``."""
        return flatten(self)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _with_alias(config: RunConfig) -> RunConfig:
    """Let ``base-model`` stand for ``model-name``, but not against it."""
    alias, name = config.model.base_model, config.model.model_name
    if not alias:
        return config
    if name not in (alias, ModelSettings().model_name):
        raise SettingError(
            f'base-model = "{alias}" and model-name = "{name}" disagree: set only one of them'
        )
    return replace(config, model=replace(config.model, model_name=alias, base_model=""))


def _check(config: RunConfig) -> None:
    """Refuse settings that are fine alone but not together."""
    em, rounds, data, output = config.em, config.rounds, config.data, config.output
    rules = [
        (em.k_init > em.k_max, f"k-init = {em.k_init} exceeds k-max = {em.k_max}: raise k-max"),
        (em.top_m > em.k_max, f"top-m = {em.top_m} exceeds k-max = {em.k_max}: lower top-m"),
        (
            rounds.strategy not in BUILT_STRATEGIES,
            f'strategy = "{rounds.strategy}": this version has: {", ".join(BUILT_STRATEGIES)}',
        ),
        (
            output.privacy not in BUILT_PRIVACY,
            f'privacy = "{output.privacy}": this version has: {", ".join(BUILT_PRIVACY)}',
        ),
        (
            data.client_task_mode == "explicit" and not data.assignment_file,
            'client-task-mode = "explicit" needs assignment-file, a map of silos to tasks',
        ),
        (
            data.client_task_mode == "keyword" and not data.categories,
            "keyword-categories is empty: name at least one, such as translation",
        ),
        (not config.model.targets, "target-modules is empty: use all-linear or name layers"),
        (not config.model.model_name, "model-name is empty: use builtin:tiny or name a model"),
        (
            "/" in output.run_name or output.run_name in (".", ".."),
            f'run-name = "{output.run_name}": must be one folder name; log-dir is the path',
        ),
    ]
    for broken, message in rules:
        if broken:
            raise SettingError(message)
