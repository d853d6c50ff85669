"""The model card of an expert: what it adapts, whom it serves, how good it is, how to load it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.mixtures import living, prior
from fedvemoe_app.report.rows import TaskRow
from fedvemoe_app.report.summary import main_expert

MOST_TASKS = 30
_LICENCE = "# license: state yours here; it may not exceed what base and data allow"


def adapter_card(run: Run, slot: int, base: str) -> str:
    """Return the README of one adapter folder, Markdown with the hub's front matter."""
    config = run.config
    rank, alpha = config.get("lora-rank"), config.get("lora-alpha")
    parts = [
        _front(base, "peft"),
        f"# Expert {slot} of {run.folder.name}\n",
        f"A LoRA adapter (rank {rank}, alpha {alpha}) for `{base}`, one of "
        f"{len(living(run.folder))} experts that silos with different tasks trained together "
        "by federated variational EM (Fed-VEMoE). Each silo answers with a mixture of experts; "
        "this is one component.\n",
        _served(run, slot),
        _scores(run, slot),
        _use(slot, base, rank),
        _made(run),
    ]
    return "\n".join(parts)


def merged_card(run: Run, slot: int, base: str) -> str:
    """Return the README of the base with one expert merged in."""
    parts = [
        _front(base, "transformers"),
        f"# Expert {slot} of {run.folder.name}, merged\n",
        f"`{base}` with the LoRA adapter of expert {slot} merged into its weights. It loads as "
        "any causal language model: `AutoModelForCausalLM.from_pretrained(FOLDER)`.\n",
        _served(run, slot),
        _scores(run, slot),
        _made(run),
    ]
    return "\n".join(parts)


def _front(base: str, library: str) -> str:
    # The hub takes only its own names as base_model; a local folder is named in the text.
    named = [] if Path(base).is_dir() else [f"base_model: {base}"]
    tags = ["tags:", "- lora", "- federated-learning", "- fedvemoe"]
    lines = [_LICENCE, f"library_name: {library}", *named, "pipeline_tag: text-generation", *tags]
    return "\n".join(["---", *lines, "---", ""])


def _served(run: Run, slot: int) -> str:
    """Return the categories whose silos use the expert, by mean responsibility."""
    weights: dict[str, list[float]] = defaultdict(list)
    for row in run.last_clients.values():
        reported = row.get("responsibilities") or ()
        if slot < len(reported):
            weights[row.get("category") or "(no category)"].append(reported[slot])
    share = prior(run, living(run.folder)).weights[slot]
    lines = ["## What it serves\n", f"Prior weight in the bank: {share:.3f}.\n"]
    if not weights:
        return "\n".join(
            [*lines, "The run reported sums only, so which tasks use it is unknown.\n"]
        )
    lines += ["| task category | silos | mean responsibility |", "|---|---|---|"]
    mean = {category: sum(found) / len(found) for category, found in weights.items()}
    for category in sorted(mean, key=lambda name: -mean[name]):
        lines.append(f"| {category} | {len(weights[category])} | {mean[category]:.3f} |")
    return "\n".join([*lines, ""])


def _scores(run: Run, slot: int) -> str:
    """Return the last scores of the tasks whose silos lean on this expert most."""
    mine = {
        task
        for row in run.last_clients.values()
        if (main := main_expert(row)) and main[0] == slot
        for task in row["tasks"]
    }
    last = max((row["round"] for row in run.tasks), default=0)
    rows = [row for row in run.tasks if row["round"] == last and row["task"] in mine]
    if not rows:
        return "## Scores\n\nNo silo that reported has this as its main expert.\n"
    lines = [
        "## Scores\n",
        f"Test part of the tasks of silos whose main expert this is, after round {last}, with "
        "each silo's own mixture.\n",
        "| task | category | perplexity | ROUGE-L % | exact match % |",
        "|---|---|---|---|---|",
        *(_task(row) for row in rows[:MOST_TASKS]),
    ]
    if len(rows) > MOST_TASKS:
        lines.append(f"\nand {len(rows) - MOST_TASKS} more.")
    return "\n".join([*lines, ""])


def _task(row: TaskRow) -> str:
    numbers = (row.get("ppl"), row.get("rouge_l"), row.get("exact_match"))
    shown = ("-" if number is None else f"{number:.2f}" for number in numbers)
    return f"| {' | '.join((row['task'], row['category'], *shown))} |"


def _room(rank: int | None) -> int:
    """Return the smallest power of two, from 8, that holds the rank: vLLM takes no others."""
    return max(8, 1 << ((rank or 8) - 1).bit_length())


def _use(slot: int, base: str, rank: int | None) -> str:
    return f"""## Use

With PEFT (`FOLDER` is where this file lies):

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, "FOLDER")
```

With vLLM, beside the run's other experts:

```bash
vllm serve {base} --enable-lora --max-lora-rank {_room(rank)} \\
  --lora-modules expert-{slot:02d}=FOLDER
```

A request then names `expert-{slot:02d}` as its model. Prompts are formed as in training: the task's
definition, the input, and the base's chat template or, without one, `Answer:`.
"""


def _made(run: Run) -> str:
    manifest, last = run.manifest, run.rounds[-1] if run.rounds else None
    versions = ", ".join(
        f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()
    )
    return "\n".join(
        [
            "## How it was made\n",
            f"- strategy {run.config.get('strategy')}, {last['round'] if last else 0} rounds, "
            f"{manifest.get('silos')} silos, privacy {run.config.get('privacy')}, seed "
            f"{run.config.get('seed')}",
            f"- base fingerprint (sha256) `{manifest.get('base')}`",
            f"- {versions}\n",
            "## Licence\n",
            "Not stated. Whoever publishes this states it, in the front matter above.\n",
        ]
    )
