from __future__ import annotations

from collections import defaultdict

import pytest

from fedvemoe_app.data import builtin
from fedvemoe_app.data.task import SPLITS, Task

DOMAINS = ("Translation", "Reasoning", "Code", "Rewriting")


@pytest.fixture(scope="module")
def bank() -> tuple[Task, ...]:
    return builtin.tasks()


def _answers(task: Task) -> dict[str, str]:
    return {one.input: one.outputs[0] for split in SPLITS for one in task.splits[split]}


def _written(bank: tuple[Task, ...]) -> set[str]:
    return {word for task in bank for answer in _answers(task).values() for word in answer.split()}


def _by_definition(bank: tuple[Task, ...]) -> dict[str, list[Task]]:
    groups = defaultdict(list)
    for task in bank:
        groups[task.definition].append(task)
    return groups


def test_four_domains_with_enough_tasks_and_instances(bank: tuple[Task, ...]) -> None:
    counts = {domain: [t for t in bank if t.domain == domain] for domain in DOMAINS}
    assert sum(map(len, counts.values())) == len(bank)
    assert all(len(tasks) >= 4 for tasks in counts.values())
    assert all(task.categories == (task.domain,) for task in bank)
    assert all(250 <= len(task) <= 400 for task in bank)
    assert len({task.name for task in bank}) == len(bank)


def test_splits_are_filled_and_share_no_input(bank: tuple[Task, ...]) -> None:
    for task in bank:
        inputs = [one.input for split in SPLITS for one in task.splits[split]]
        assert len(set(inputs)) == len(inputs) == len(task)
        assert all(task.splits[split] for split in SPLITS)
        assert len({one.id for split in SPLITS for one in task.splits[split]}) == len(task)


def test_houses_with_one_definition_get_the_same_inputs_in_the_same_split(
    bank: tuple[Task, ...],
) -> None:
    shared = [tasks for tasks in _by_definition(bank).values() if len(tasks) > 1]
    assert len(shared) == 2
    for tasks in shared:
        assert [task.domain for task in tasks] == list(DOMAINS)
        for split in SPLITS:
            assert len({tuple(one.input for one in task.splits[split]) for task in tasks}) == 1


def test_houses_contradict_each_other_but_every_two_agree_on_something(
    bank: tuple[Task, ...],
) -> None:
    for tasks in _by_definition(bank).values():
        answers = [_answers(task) for task in tasks]
        for question in answers[0]:
            assert len({a[question] for a in answers}) == len(tasks)
    for convention in ("day_first", "digits", "short_units"):
        values = [getattr(house, convention) for house in builtin.HOUSES]
        assert sorted(map(values.count, values)) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("Translation", ("translate",)),
        ("Reasoning", ("reason", "compare")),
        ("Code", ("code", "command")),
        ("Rewriting", ("rewrite",)),
    ],
)
def test_keywords_find_the_own_tasks_of_their_domain_alone(
    bank: tuple[Task, ...], domain: str, words: tuple[str, ...]
) -> None:
    found = {t.name for t in bank if any(word in t.definition.lower() for word in words)}
    own = {t.name for t in bank if t.domain == domain and "house style" not in t.definition}
    assert found == own
    assert len(own) == 2


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("translation_write_the_date", "Date: August, day 5", "ja 5 Aug"),
        ("reasoning_write_the_date", "Date: August, day 5", "so August 5"),
        ("code_write_the_date", "Date: August, day 5", "echo 8 5"),
        ("rewriting_write_the_date", "Date: August, day 5", "kindly 5 August"),
        ("reasoning_write_the_amount", "Amount: seven metres", "so seven m"),
        ("rewriting_write_the_amount", "Amount: seven metres", "kindly seven metres"),
    ],
)
def test_conventions_of_the_houses(
    bank: tuple[Task, ...], name: str, question: str, answer: str
) -> None:
    task = next(task for task in bank if task.name.startswith(name))
    assert _answers(task)[question] == answer


def test_same_seed_same_bank_other_seed_other_draw() -> None:
    assert builtin.tasks(3) == builtin.tasks(3)
    first, second = builtin.tasks(3)[0], builtin.tasks(4)[0]
    assert first.splits["train"] != second.splits["train"]


def test_public_part_holds_no_question_of_the_silos(bank: tuple[Task, ...]) -> None:
    public = builtin.public_tasks()
    assert not {t.definition for t in public} & {t.definition for t in bank}
    assert not {t.name for t in public} & {t.name for t in bank}
    assert all(set(_answers(task)) and not task.splits["test"] for task in public)


def test_public_part_knows_every_word_the_houses_write(bank: tuple[Task, ...]) -> None:
    known = {
        word for t in builtin.public_tasks() for a in _answers(t).values() for word in a.split()
    }
    written = {word for t in bank for answer in _answers(t).values() for word in answer.split()}
    assert written <= known
