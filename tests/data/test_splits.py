from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fedvemoe_app.data.reading.drafts import Draft
from fedvemoe_app.data.reading.records import Heading, Row
from fedvemoe_app.data.splits import Fractions, missing_splits, place
from fedvemoe_app.data.task import SPLITS, Split, Task

FRACTIONS = Fractions()
inputs = st.lists(st.text(max_size=6), min_size=3, max_size=60, unique=True)


def finished(questions: list[str], given: list[Split | None], limit: int | None = None) -> Task:
    draft = Draft(Heading("t", "Do t.", (), None), "here")
    for number, (question, split) in enumerate(zip(questions, given, strict=True)):
        draft.add(Row(Heading("t", "Do t.", (), split), f"id{number}", question, ("a",), "here"))
    return draft.finish(FRACTIONS, limit)


@settings(deadline=None, max_examples=60)
@given(inputs)
def test_three_different_questions_are_always_enough(questions: list[str]) -> None:
    task = finished(questions, [None] * len(questions))
    assert all(task.splits[split] for split in ("train", "probe", "test"))
    assert len(task) == len(questions)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=20, max_size=60))
def test_identical_inputs_never_stand_on_both_sides(letters: list[str]) -> None:
    questions = [*letters, "x", "y", "z"]
    task = finished(questions, [None] * len(questions))
    sides = [{instance.input for instance in task.splits[split]} for split in SPLITS]
    assert sum(map(len, sides)) == len(set.union(*sides))


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=6), st.text(max_size=9))
def test_a_split_depends_on_no_other_instance(prefix: str, newcomer: str) -> None:
    questions = [f"{prefix} {i}" for i in range(150)]  # none of its parts needs a refill
    before = finished(questions, [None] * 150)
    after = finished([*questions, newcomer], [None] * 151)
    for split in SPLITS:
        old = {instance.input for instance in before.splits[split]}
        assert {instance.input for instance in after.splits[split]} <= old | {newcomer}


@given(st.text(max_size=20), st.sampled_from(["train", "validation", "test"]))
def test_a_given_held_out_split_is_kept(question: str, split: Split) -> None:
    everything: frozenset[Split] = frozenset({"train", "validation", "test"})
    placed = place(split, question, missing_splits(everything), FRACTIONS)
    assert placed in {"train", "probe"} if split == "train" else placed == split


@given(st.text(max_size=20))
def test_a_larger_probe_fraction_moves_questions_out_of_train_alone(question: str) -> None:
    missing = missing_splits(frozenset({"train"}))
    small = place("train", question, missing, Fractions(probe=0.1))
    large = place("train", question, missing, Fractions(probe=0.5))
    assert small == large or (small, large) == ("train", "probe")


def test_fractions_are_met() -> None:
    questions = [f"question {i}" for i in range(4000)]
    task = finished(questions, [None] * 4000)
    assert abs(len(task.splits["test"]) / 4000 - 0.1) < 0.02
    assert abs(len(task.splits["validation"]) / 4000 - 0.1) < 0.02
    rest = len(task.splits["probe"]) + len(task.splits["train"])
    assert abs(len(task.splits["probe"]) / rest - 0.15) < 0.02


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 4))
def test_trimming_early_keeps_what_the_limit_keeps(data: st.DataObject, limit: int) -> None:
    questions = [f"q{i}" for i in range(300)]
    given = data.draw(st.permutations(["train", "test", *[None] * 298]))
    draft = Draft(Heading("t", "Do t.", (), None), "here", {"train", "test"})
    for number, (question, split) in enumerate(zip(questions, given, strict=True)):
        draft.add(Row(Heading("t", "Do t.", (), split), f"id{number}", question, ("a",), "here"))
        draft.trim(FRACTIONS, limit)
    assert len(draft.held) < 300
    assert draft.finish(FRACTIONS, limit) == finished(questions, given, limit)
