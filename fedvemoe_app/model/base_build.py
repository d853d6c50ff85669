"""A small base model of our own: tokenizer and causal LM trained from a task bank, and cached.

``builtin:tiny`` is the model built here from the public part of the embedded bank. A build is
a function of the tasks, the size, the seed and the recipe; their hash names its folder in the
cache, so a second call finds it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock
from transformers.utils.logging import disable_progress_bar

from fedvemoe_app.data import builtin
from fedvemoe_app.data.batches import encode
from fedvemoe_app.data.prompts import PLAIN
from fedvemoe_app.data.task import Task
from fedvemoe_app.errors import BaseModelError, DataError, SettingError
from fedvemoe_app.jsontext import parse
from fedvemoe_app.model.base_training import Progress, Recipe, train
from fedvemoe_app.model.tokenizer_build import train_tokenizer
from fedvemoe_app.seeds import stream

__all__ = ["Progress", "Size", "build_base", "builtin_base"]

Size = Literal["tiny", "small"]

MANIFEST = "build.json"
MAX_EXAMPLES = 40_000

RECIPES: Mapping[Size, Recipe] = {
    "tiny": Recipe(128, 3, 4, 256, 1024, 256, 600, 1536, 4e-3, 1),
    "small": Recipe(256, 6, 4, 768, 2048, 256, 1200, 4096, 2e-3, None),
}


def builtin_base(size: Size = "tiny", on_progress: Progress | None = None) -> Path:
    """Return the folder of the embedded base model, built on the first call."""
    return build_base(builtin.public_tasks(), size=size, on_progress=on_progress)


def is_built(size: Size) -> bool:
    """Say whether the embedded base model is in the cache."""
    return _intact(bases_folder() / _fingerprint(builtin.public_tasks(), RECIPES[size], 0))


def build_base(
    tasks: Sequence[Task],
    *,
    size: Size = "tiny",
    seed: int = 0,
    steps: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Return the folder of a base model trained on the tasks' ``train`` splits.

    Parameters
    ----------
    tasks
        Only their training instances are read.
    steps
        Optimiser steps; the size's own number where not given.
    on_progress
        Called after each step with the step, their number and the loss (nats per token).

    Raises
    ------
    SettingError
        The size is unknown or ``steps`` is below 1.
    DataError
        No task has a training instance.
    BaseModelError
        The cache folder cannot be written.
    """
    recipe = _recipe(size, steps)
    if not any(task.splits["train"] for task in tasks):
        raise DataError("no task has a training instance to build a base model from: add some")
    name = _fingerprint(tasks, recipe, seed)
    folder = bases_folder() / name
    with FileLock(folder.with_suffix(".lock")):
        if not _intact(folder):
            _build_into(folder, tasks, recipe, seed, on_progress)
    return folder


def _recipe(size: Size, steps: int | None) -> Recipe:
    if size not in RECIPES:
        raise SettingError(f"size = {size!r} is unknown: use one of {', '.join(RECIPES)}")
    recipe = RECIPES[size]
    if steps is None:
        return recipe
    if steps < 1:
        raise SettingError(f"steps = {steps} trains nothing: use at least 1")
    return replace(recipe, steps=steps)


def bases_folder() -> Path:
    """Return the cache of built bases; BaseModelError where it cannot be made."""
    cache = Path(os.environ.get("FEDVEMOE_CACHE") or Path.home() / ".cache" / "fedvemoe")
    try:
        (cache / "bases").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseModelError(
            f"cannot keep base models under {cache} ({error}): "
            "set FEDVEMOE_CACHE to a folder you can write to"
        ) from error
    return cache / "bases"


def _fingerprint(tasks: Sequence[Task], recipe: Recipe, seed: int) -> str:
    content = [
        [task.name, task.definition, [[i.input, i.outputs[0]] for i in task.splits["train"]]]
        for task in tasks
    ]
    text = json.dumps([content, asdict(recipe), PLAIN, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digests(folder: Path) -> dict[str, str]:
    """Return the hash of each file but the manifest."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def _intact(folder: Path) -> bool:
    """Say whether the folder holds exactly the files its manifest lists."""
    try:
        manifest = parse((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["files"] == _digests(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _build_into(
    folder: Path, tasks: Sequence[Task], recipe: Recipe, seed: int, on_progress: Progress | None
) -> None:
    """Build beside ``folder`` and move the result there in one step."""
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _build(work, tasks, recipe, seed, on_progress)
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(
    folder: Path, tasks: Sequence[Task], recipe: Recipe, seed: int, on_progress: Progress | None
) -> None:
    pairs = [(task, instance) for task in tasks for instance in task.splits["train"]]
    order = stream(seed, "base", "examples").permutation(len(pairs))[:MAX_EXAMPLES]
    pairs = [pairs[index] for index in order]
    texts = (
        f"{PLAIN.format(definition=task.definition, input=one.input)} {one.outputs[0]}"
        for task, one in pairs
    )
    tokenizer = train_tokenizer(texts, recipe.vocab_size, recipe.seq_len)
    examples = [encode(tokenizer, task, one, recipe.seq_len) for task, one in pairs]
    model = train(tokenizer, examples, recipe, seed, on_progress)
    disable_progress_bar()  # one file, written at once
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest = {"recipe": asdict(recipe), "seed": seed, "files": _digests(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
