from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvemoe_app.data.assign import Assignment, Share, assign, shard
from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.data.task import SPLITS, Instance, Task
from fedvemoe_app.errors import DataError, SettingError
from tests.data import layouts


def card(name: str, definition: str = "", *categories: str) -> TaskCard:
    return TaskCard(name, definition or f"Do {name}.", categories, 100, 1.0, 1.0)


def translations(count: int) -> list[TaskCard]:
    return [card(f"translate_{i}", "Translate it.") for i in range(count)]


def by_keyword(
    catalogue: list[TaskCard], categories: str, silos: int, tasks: int = 1, seed: int = 0
) -> Assignment:
    return assign(
        catalogue,
        mode="keyword",
        silos=silos,
        categories=categories.split(),
        tasks_per_category=tasks,
        seed=seed,
    )


def names(assignment: Assignment) -> list[list[str]]:
    return [[share.task for share in silo.shares] for silo in assignment.silos]


# By keyword ---------------------------------------------------------------------------------


def test_silos_take_the_categories_in_turn() -> None:
    catalogue = [*translations(2), card("bash", "Write bash code.")]
    found = by_keyword(catalogue, "translation code", silos=3)
    assert [silo.name for silo in found.silos] == ["silo-00", "silo-01", "silo-02"]
    assert [silo.category for silo in found.silos] == ["translation", "code", "translation"]
    assert names(found)[1] == ["bash"]
    assert {*names(found)[0], *names(found)[2]} == {"translate_0", "translate_1"}
    assert found.tasks == ("bash", "translate_0", "translate_1")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 50))
def test_every_task_is_divided_into_as_many_parts_as_it_has_holders(
    pool: int, silos: int, tasks: int, seed: int
) -> None:
    found = by_keyword(translations(pool), "translation", silos, tasks, seed)
    shares = [share for silo in found.silos for share in silo.shares]
    for task in found.tasks:
        parts = [share for share in shares if share.task == task]
        assert sorted(share.part for share in parts) == list(range(len(parts)))
        assert {share.parts for share in parts} == {len(parts)}
    for silo in names(found):
        assert len(silo) == len(set(silo)) == min(tasks, pool)
    holders = [sum(task in silo for silo in names(found)) for task in found.tasks]
    assert max(holders) - min(holders) <= 1
    if silos * tasks <= pool:
        assert max(holders) == 1
    assert bool(found.notes) == (tasks > pool)


def test_the_seed_and_nothing_else_decides_the_choice() -> None:
    catalogue = translations(20)
    one = by_keyword(catalogue, "translation", 4, 2, seed=1)
    assert one == by_keyword(catalogue[::-1], "translation", 4, 2, seed=1)
    assert one != by_keyword(catalogue, "translation", 4, 2, seed=2)


def test_matches_in_categories_are_chosen_before_matches_in_the_definition() -> None:
    catalogue = [*translations(8), card("by_field", "Do it.", "Translation")]
    for seed in range(8):
        assert names(by_keyword(catalogue, "translation", 1, seed=seed)) == [["by_field"]]


def test_a_task_goes_to_the_category_that_its_categories_name() -> None:
    catalogue = [
        card("commonsense_qa", "Use commonsense.", "Question Answering"),
        card("sums", "Do arithmetic."),
        card("quiz", "Answer the quiz."),
    ]
    found = assign(
        catalogue,
        mode="keyword",
        silos=2,
        categories=["reasoning", "question answering"],
        tasks_per_category=3,
    )
    assert [set(tasks) for tasks in names(found)] == [{"sums"}, {"commonsense_qa", "quiz"}]


def test_a_contested_task_goes_to_the_category_with_fewest() -> None:
    catalogue = [*translations(2), card("both", "Translate the code.")]
    found = by_keyword(catalogue, "translation code", silos=2, tasks=3)
    assert [set(tasks) for tasks in names(found)] == [{"translate_0", "translate_1"}, {"both"}]


def test_a_category_left_empty_takes_a_task_that_another_can_spare() -> None:
    catalogue = [
        card("a", "Write code for it.", "Translation"),
        card("b", "Translate.", "Translation"),
    ]
    found = by_keyword(catalogue, "translation code", silos=2, tasks=2)
    assert names(found) == [["b"], ["a"]]


def test_the_only_task_of_two_categories_is_divided_between_them() -> None:
    found = by_keyword([card("a", "Write code.", "Translation")], "translation code", silos=2)
    assert [silo.shares for silo in found.silos] == [(Share("a", 0, 2),), (Share("a", 1, 2),)]


def test_categories_beyond_the_silos_need_no_task() -> None:
    assert names(by_keyword(translations(1), "translation poems", silos=1)) == [["translate_0"]]


def test_a_category_with_no_task_shows_near_misses_and_the_fix() -> None:
    catalogue = [card("t1", "Pretranslated text."), card("t2", "Sing.")]
    with pytest.raises(DataError) as caught:
        by_keyword(catalogue, "translation", 1)
    assert "no task matches 'translation'" in str(caught.value)
    assert "t1 has 'pretranslated'" in str(caught.value)
    assert "t2" not in str(caught.value)
    assert "keyword-file" in str(caught.value)


def test_a_mistyped_category_is_told_the_word_it_resembles() -> None:
    with pytest.raises(DataError, match=r"'tranlsation'.*translat"):
        by_keyword(translations(2), "tranlsation", 1)
    with pytest.raises(DataError, match=r"'rewritting'.*closest words: rewriting"):
        by_keyword(translations(2), "rewritting", 1)


# By turn and by map -------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_round_robin_deals_every_task_evenly(tasks: int, silos: int, seed: int) -> None:
    catalogue = translations(tasks)
    found = assign(catalogue, mode="round-robin", silos=silos, seed=seed)
    sizes = [len(silo) for silo in names(found)]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert found.tasks == tuple(sorted(card.name for card in catalogue))
    assert found == assign(catalogue[::-1], mode="round-robin", silos=silos, seed=seed)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_map_file_says_who_holds_what(tmp_path: Path, suffix: str) -> None:
    held = {"silo-01": ["a", "b"], "silo-00": ["b"]}
    text = "".join(f"{silo} = {json.dumps(tasks)}\n" for silo, tasks in held.items())
    file = tmp_path / f"map.{suffix}"
    file.write_text(json.dumps(held) if suffix == "json" else text)
    found = assign([card("a"), card("b")], mode="explicit", silos=2, map_file=file)
    assert [silo.name for silo in found.silos] == ["silo-00", "silo-01"]
    assert [silo.shares for silo in found.silos] == [
        (Share("b", 0, 2),),
        (Share("a", 0, 1), Share("b", 1, 2)),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"silo-00": ["a"]}', "maps 1 silos, but the run has 2"),
        ('{"x": ["a"], "y": ["sum_tow"]}', "y names the unknown task 'sum_tow'; did you mean sum"),
        ('{"x": ["a"], "y": []}', "y must have a list of one or more task names"),
        ('{"x": ["a"], "y": "a"}', "y must have a list of one or more task names"),
        ('{"x": ["a"], "y": ["a", "a"]}', "y names a twice"),
        ("[]", "must map silos to tasks"),
        ('{"x": ["a"],}', "broken JSON at line 1, column"),
    ],
)
def test_a_bad_map_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(content)
    with pytest.raises(DataError, match=rf"map\.json: {message}"):
        assign([card("a"), card("sum_two")], mode="explicit", silos=2, map_file=file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "random"}, "client-task-mode = random is unknown; use one of keyword"),
        ({"silos": 0}, "number of silos is 0"),
        ({"categories": ()}, "keyword-categories is empty"),
        ({"tasks_per_category": 0}, "tasks-per-category = 0"),
        ({"mode": "explicit"}, "needs assignment-file"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"mode": "keyword", "silos": 1, "categories": ["translation"], **change}
    with pytest.raises(SettingError, match=message):
        assign(translations(1), **arguments)  # type: ignore[arg-type]


# Shards -------------------------------------------------------------------------------------


def task_of(sizes: dict[str, int]) -> Task:
    splits = {
        split: tuple(Instance(f"{split}{i}", f"{split} {i}", ("a",)) for i in range(sizes[split]))
        for split in SPLITS
    }
    return Task("t", "Do t.", (), splits)


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.fixed_dictionaries({split: st.integers(6, 40) for split in SPLITS}),
)
def test_shards_cover_a_task_without_overlap_in_any_order(
    parts: int, sizes: dict[str, int]
) -> None:
    task = task_of(sizes)
    shards = [shard(task, part, parts) for part in range(parts)]
    for split in SPLITS:
        ids = [instance.id for piece in shards for instance in piece.splits[split]]
        assert sorted(ids) == sorted(instance.id for instance in task.splits[split])
        counts = [len(piece.splits[split]) for piece in shards]
        assert max(counts) - min(counts) <= 1
    mixed = Task("t", "Do t.", (), {s: tuple(reversed(task.splits[s])) for s in SPLITS})
    if parts > 1:
        assert [shard(mixed, part, parts) for part in range(parts)] == shards


def test_a_task_too_small_to_share_is_named() -> None:
    sizes = {"train": 20, "probe": 2, "validation": 0, "test": 5}
    assert len(shard(task_of(sizes), 1, 2)) == 13
    with pytest.raises(DataError, match="task t is shared by 3 silos but has only 2 probe"):
        shard(task_of(sizes), 0, 3)
    with pytest.raises(ValueError, match="part 2 is not one of 2"):
        shard(task_of(sizes), 2, 2)


# The real bank ------------------------------------------------------------------------------

SEED_CATEGORIES = "translation reasoning code rewriting"


@pytest.mark.parametrize("with_categories", [True, False])
def test_real_tasks_fall_into_the_categories_of_the_research_run(with_categories: bool) -> None:
    cards = open_bank(str(layouts.real_tasks()), streaming=True).catalogue
    if not with_categories:  # as in the hub's layout, which has definitions alone
        cards = tuple(card(c.name, c.definition) for c in cards)
    found = by_keyword(list(cards), SEED_CATEGORIES, silos=5, tasks=3)
    pools = [set(tasks) for tasks in names(found)]
    assert pools[0] == pools[4] == {"ii_translation_en_de", "ii_translation_en_es"}
    assert pools[1] == {"task073_commonsenseqa_answer_generation", "ii_sum", "ii_larger_animal"}
    assert pools[2] == {"nl2bash_find_command", "nl2bash_one_liner"}
    assert {"ii_active_to_passive", "ii_negation"} <= pools[3]
    assert pools[3] <= {"ii_active_to_passive", "ii_negation", "ii_singular_to_plural"}
