from __future__ import annotations

from pathlib import Path

import pytest

from fedvemoe_app.data.assignment.keywords import KEYWORDS, find, keywords_of, load_keywords
from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.errors import DataError


def card(definition: str, *categories: str) -> TaskCard:
    return TaskCard("t", definition, categories, 10, 1.0, 1.0)


@pytest.mark.parametrize(
    ("definition", "found"),
    [
        ("Translate the text.", "translate"),
        ("TRANSLATE!", "translate"),
        ("Do a (word) translation, please", "translation"),
        ("Untranslated text", None),
        ("A translatelike thing", None),
        ("translate_text", None),
    ],
)
def test_words_match_whole_and_in_any_case(definition: str, found: str | None) -> None:
    match = find(card(definition), "translation", KEYWORDS["translation"])
    assert (match.keyword if match else None) == found


def test_a_space_matches_spaces_line_ends_and_hyphens() -> None:
    for definition in ("Use common sense.", "Use common-sense.", "Use common\n sense."):
        assert find(card(definition), "reasoning", ["common sense"])


def test_signs_in_a_keyword_are_no_pattern() -> None:
    assert find(card("Write C++ now"), "code", ["c++"])
    assert not find(card("Write cc now"), "code", ["c++", "c."])


def test_categories_are_searched_before_the_definition() -> None:
    match = find(card("Translate it.", "Translation"), "translation", KEYWORDS["translation"])
    assert match is not None
    assert (match.field, match.keyword) == ("categories", "translation")
    match = find(card("Translate it.", "Poetry"), "translation", KEYWORDS["translation"])
    assert match is not None
    assert (match.field, match.keyword) == ("definition", "translate")


def test_a_category_without_a_list_is_searched_by_its_name() -> None:
    assert keywords_of("Question-Answering", KEYWORDS) == KEYWORDS["question answering"]
    assert keywords_of("poem_generation", KEYWORDS) == ("poem generation",)


def test_own_lists_replace_the_built_in_ones_of_their_name(tmp_path: Path) -> None:
    file = tmp_path / "words.toml"
    file.write_text('[keywords]\ntranslation = ["übersetze"]\npoems = ["sonnet", "haiku"]\n')
    lists = load_keywords(file)
    assert lists["translation"] == ("übersetze",)
    assert lists["poems"] == ("sonnet", "haiku")
    assert lists["code"] == KEYWORDS["code"]
    assert load_keywords(None) == KEYWORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[keywords\n", "broken TOML.*line 1"),
        ("code = ['x']\n", r"needs a table \[keywords\]"),
        ("[keywords]\ncode = []\n", r"keywords\.code must be a list"),
        ("[keywords]\ncode = 'bash'\n", r"keywords\.code must be a list"),
        ("[keywords]\ncode = ['a', 3]\n", r"keywords\.code must be a list"),
        ("[keywords]\ncode = [' ']\n", r"keywords\.code must be a list"),
    ],
)
def test_a_bad_keyword_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "words.toml"
    file.write_text(content)
    with pytest.raises(DataError, match=rf"words\.toml: {message}"):
        load_keywords(file)


def test_a_missing_keyword_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.toml: cannot be opened"):
        load_keywords(tmp_path / "gone.toml")
