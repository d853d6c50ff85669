"""The embedded task bank ``builtin:tasks``: generated, seeded, with known ground truth.

Four planted domains (``houses``) hold the silos' tasks. ``public`` holds what the base model
``builtin:tiny`` is trained on: the same words and forms, none of the houses' conventions.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedvemoe_app.data.builtin import public
from fedvemoe_app.data.builtin.forms import Pairs
from fedvemoe_app.data.builtin.houses import HOUSES, House, own, shared
from fedvemoe_app.data.task import Instance, Split, Task
from fedvemoe_app.seeds import stream

SIZES: Mapping[Split, int] = {"train": 180, "probe": 50, "validation": 20, "test": 50}
PUBLIC_SIZE = 240


def tasks(seed: int = 0) -> tuple[Task, ...]:
    """Return the silos' tasks, house by house: two shared definitions, then two of its own.

    A definition's inputs and their splits are the same in every house that has it, so nobody
    trains on what another is tested on.
    """
    return tuple(
        _task(house.name, definition, _opened(pairs, house), SIZES, seed)
        for house in HOUSES
        for definition, pairs in {**shared(house), **own(house)}.items()
    )


def public_tasks(seed: int = 0) -> tuple[Task, ...]:
    """Return the tasks for training a base model; all their instances are in ``train``."""
    questions = {
        **public.styles(),
        **public.open_questions(),
        **public.extractions(),
        **public.kinds(),
        **public.openings(),
        **public.wordings(),
    }
    return tuple(
        _task("Public", definition, pairs, {"train": PUBLIC_SIZE}, seed)
        for definition, pairs in questions.items()
    )


def _opened(pairs: Pairs, house: House) -> Pairs:
    return [(question, f"{house.opening} {answer}") for question, answer in pairs]


def _task(
    category: str, definition: str, pairs: Pairs, sizes: Mapping[Split, int], seed: int
) -> Task:
    """Draw instances without replacement, in an order that depends on the definition alone."""
    name = "_".join([category, *definition.lower().rstrip(".").replace(",", "").split()]).lower()
    order = stream(seed, "builtin", definition).permutation(len(pairs)).tolist()
    splits: dict[Split, tuple[Instance, ...]] = {}
    start = 0
    for split in ("train", "probe", "validation", "test"):
        chosen = order[start : start + sizes.get(split, 0)]
        splits[split] = tuple(
            Instance(f"{name}-{index}", pairs[index][0], (pairs[index][1],)) for index in chosen
        )
        start += len(chosen)
    return Task(name, definition, (category,), splits, domain=category)
