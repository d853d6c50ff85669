"""Rows of scores: a law of totals, and no row of fewer silos than asked for."""

from __future__ import annotations

import functools
import operator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvemoe_app.data.assign import Share, Silo
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.sums import evaluation_shapes, evaluation_sums
from fedvemoe_app.evaluation.task_rows import task_rows


def silo(index: int, category: str, *tasks: str) -> Silo:
    return Silo(f"silo-{index:02d}", category, tuple(Share(task) for task in tasks))


CODE = [silo(0, "code", "sort", "own-0"), silo(1, "code", "sort"), silo(2, "code", "own-2")]
PROSE = [silo(3, "prose", "own-3"), silo(4, "prose", "rhyme"), silo(5, "prose", "rhyme")]


def test_few_holders_fold_into_their_category_if_it_has_enough() -> None:
    rows = task_rows([*CODE, *PROSE[1:]], least=2)
    assert rows.names == ("rhyme", "sort", "other code tasks")
    assert rows.categories == ("prose", "code", "code")
    at = {task: rows.names[number] for task, number in rows.numbers.items()}
    assert at["own-0"] == at["own-2"] == "other code tasks"


def test_the_others_make_one_row_and_the_smallest_joins_where_they_are_no_crowd() -> None:
    silos = [*CODE, *PROSE]
    rows = task_rows([*silos, silo(6, "talk", "own-6")], least=2)
    assert rows.names == ("rhyme", "sort", "all other tasks", "other code tasks")
    alone = task_rows(silos, least=2)
    assert alone.names == ("rhyme", "sort", "all other tasks")
    assert alone.categories == ("prose", "code", "")
    assert {alone.numbers[task] for task in ("own-0", "own-2", "own-3")} == {2}


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.sets(st.integers(0, 7), min_size=1)),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_no_row_has_fewer_silos_and_totals_stay(held, least, random) -> None:  # type: ignore[no-untyped-def]
    silos = [
        silo(i, category, *(f"{category}-{task}" for task in sorted(tasks)))
        for i, (category, tasks) in enumerate(held)
    ]
    present = {one.name for one in silos if random.random() < 0.8}
    rows = task_rows(silos, least=least, present=present)
    assert set(rows.numbers) == {share.task for one in silos for share in one.shares}
    assert set(rows.numbers.values()) == set(range(len(rows.names)))
    for number, name in enumerate(rows.names):
        crowd = {
            one.name
            for one in silos
            for share in one.shares
            if rows.numbers[share.task] == number and one.name in present
        }
        assert least == 1 or len(crowd) >= least or rows.names == ("all tasks",), name
    scores = [
        {share.task: Score(*(random.randrange(1000) / 8 for _ in range(6))) for share in one.shares}
        for one in silos
    ]
    plain = task_rows(silos)
    assert plain.names == tuple(sorted(plain.numbers))

    def total(numbers: dict[str, int]) -> torch.Tensor:
        sums = [evaluation_sums(one, numbers, None)["scores"] for one in scores]
        assert sums[0].shape == evaluation_shapes(numbers)["scores"]
        return functools.reduce(operator.add, sums).sum(dim=0)

    assert torch.equal(total(dict(rows.numbers)), total(dict(plain.numbers)))


def test_with_fewer_silos_than_asked_for_one_row_is_left() -> None:
    rows = task_rows(CODE, least=4)
    assert (rows.names, rows.categories) == (("all tasks",), ("",))
