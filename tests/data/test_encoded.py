"""A silo's tasks as tokens: caps per task, and a probe that is topped up where it is short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedvemoe_app.data.batches import Example
from fedvemoe_app.data.encoded import EncodedTasks, encode_tasks
from fedvemoe_app.data.task import Instance, Task
from tests.model.tiny import tokenizer

WORDS = tokenizer(eos="<eos>")
COUNTS = {"train": 12, "probe": 3, "validation": 2, "test": 5}


def task(name: str, **counts: int) -> Task:
    """Return a task whose answers are one word each: two targets with EOS."""
    numbers = {**COUNTS, **counts}
    return Task(
        name,
        "w0",
        (),
        {
            split: tuple(Instance(f"{name}-{split}-{i}", f"w{i} w1", ("w2",)) for i in range(count))
            for split, count in numbers.items()
        },  # type: ignore[misc]
    )


TWO = (task("a"), task("b", train=30))


def encoded(tasks: tuple[Task, ...] = TWO, **changes: int) -> EncodedTasks:
    sizes = {"seq_len": 20, "probe_tokens": 1, "eval_examples": 0, "generate_examples": 2}
    return encode_tasks(WORDS, tasks, **{**sizes, **changes})


def ids(examples: tuple[Example, ...]) -> list[str]:
    return [example.instance.id for example in examples]


def test_every_split_holds_its_instances_task_after_task() -> None:
    found = encoded()
    for split in ("train", "probe", "test"):
        expected = [one.id for each in TWO for one in each.splits[split]]
        assert ids(getattr(found, split)) == expected
    assert [example.task for example in found.probe] == ["a"] * 3 + ["b"] * 3


def test_the_validation_part_is_left_alone() -> None:
    found = encoded(probe_tokens=10_000)
    seen = [*found.train, *found.probe, *found.top_up, *found.test, *found.answered]
    assert not any("validation" in example.instance.id for example in seen)


@pytest.mark.parametrize(
    ("cap", "generated", "tested", "answered"),
    [(0, 2, 5, 2), (3, 2, 3, 2), (2, 4, 2, 2), (0, 0, 5, 0), (3, 0, 3, 0), (0, 9, 5, 5)],
)
def test_tests_are_capped_per_task(cap: int, generated: int, tested: int, answered: int) -> None:
    found = encoded(eval_examples=cap, generate_examples=generated)
    assert len(found.test) == 2 * tested
    assert len(found.answered) == 2 * answered
    assert set(ids(found.answered)) <= set(ids(found.test))


def test_a_long_enough_probe_is_not_topped_up() -> None:
    targets = sum(example.targets for example in encoded().probe)
    assert targets == 12
    assert encoded(probe_tokens=targets).top_up == ()
    assert encoded(probe_tokens=targets + 1).top_up != ()


@pytest.mark.parametrize("wanted", [13, 20, 50, 90])
def test_a_short_probe_is_topped_up_from_training_data_to_the_tokens_wanted(wanted: int) -> None:
    found = encoded(probe_tokens=wanted)
    tokens = sum(example.targets for example in (*found.probe, *found.top_up))
    assert wanted <= tokens <= wanted + 2
    assert set(ids(found.top_up)) <= set(ids(found.train))
    assert len(set(ids(found.top_up))) == len(found.top_up)


def test_the_top_up_comes_evenly_from_all_tasks() -> None:
    found = encoded(probe_tokens=12 + 2 * 14)
    by_task = [sum(example.task == name for example in found.top_up) for name in ("a", "b")]
    assert by_task[1] / by_task[0] == pytest.approx(30 / 12, rel=0.2)


def test_it_takes_every_training_example_and_no_more() -> None:
    found = encoded(probe_tokens=10_000)
    assert found.top_up == found.train


def test_probe_top_up_and_test_share_nothing() -> None:
    found = encoded(probe_tokens=60)
    parts = [set(ids(part)) for part in (found.probe, found.top_up, found.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_long_prompts_are_cut_to_the_length_asked_for() -> None:
    long = replace(task("long"), definition=" ".join(["w3"] * 50))
    found = encoded((long,), seq_len=10)
    assert {len(example.ids) for example in found.train} == {10}
    assert {example.targets for example in found.train} == {2}
