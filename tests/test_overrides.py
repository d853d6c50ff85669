"""Settings from a file and from the command line: types, order, and paths made absolute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.overrides import PATHS, PERHAPS_PATHS, absolute, from_text, gather
from fedvemoe_app.settings import Value, leaves

LEAVES = {leaf.key: leaf for leaf in leaves(RunConfig)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return Path(os.getcwd())


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("k-init=3", "k-init", 3),
        ("lora-alpha=8", "lora-alpha", 8.0),
        ("learning-rate=2e-4", "learning-rate", 2e-4),
        ("use-4bit=true", "use-4bit", True),
        ("use-4bit=False", "use-4bit", False),
        ("streaming=1", "streaming", True),
        ("run-name=one", "run-name", "one"),
        ("run-name='one two'", "run-name", "one two"),
        ('run-name="3"', "run-name", "3"),
        ("run-name='", "run-name", "'"),
        ("run-name=", "run-name", ""),
        ("model-name=a=b", "model-name", "a=b"),
    ],
)
def test_a_word_is_read_in_the_type_of_its_setting(word: str, key: str, value: Value) -> None:
    found = gather(RunConfig, None, [word])
    assert found == {key: value}
    assert type(found[key]) is type(value)


@pytest.mark.parametrize("key", LEAVES)
def test_every_default_survives_being_written_as_a_word(key: str) -> None:
    leaf = LEAVES[key]
    assert from_text(leaf, str(leaf.default)) == leaf.default


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("k-init", "key=value"),
        ("k-init=", "int"),
        ("k-init=3.0", "int"),
        ("rho=x", "float"),
        ("streaming=yes", "bool"),
        ("streaming=", "bool"),
    ],
)
def test_a_word_of_another_type_names_key_and_type(word: str, named: str) -> None:
    with pytest.raises(SettingError, match=rf"{word.partition('=')[0]}.*{named}"):
        gather(RunConfig, None, [word])


def test_an_unknown_key_is_kept_for_the_reader_to_refuse() -> None:
    assert gather(RunConfig, None, ["k-inti=3"]) == {"k-inti": "3"}


def test_words_win_over_the_file_and_later_words_over_earlier(here: Path) -> None:
    (here / "s.toml").write_text("k-init = 3\nrho = 0.2\n")
    found = gather(RunConfig, here / "s.toml", ["k-init=5", "k-init=4"])
    assert found == {"k-init": 4, "rho": 0.2}


def test_a_file_has_types_of_its_own_and_an_error_names_it(here: Path) -> None:
    (here / "s.toml").write_text("k-init = 3\nuse-4bit = true\n")
    assert gather(RunConfig, here / "s.toml", []) == {"k-init": 3, "use-4bit": True}
    (here / "s.toml").write_text('k-init = "3"\n')
    with pytest.raises(SettingError, match=r's\.toml: k-init = "3": must be of type int'):
        gather(RunConfig, here / "s.toml", [])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"k-init = [1]", "k-init must be a plain"),
        (b"[em]\nrho = 1", "em must be a plain"),
        (b"day = 2026-01-01", "day must be a plain"),
        (b"k-init", "not TOML"),
        (b"run-name = '\xff'", "not TOML"),
    ],
)
def test_a_file_that_is_no_flat_table_is_named(here: Path, content: bytes, named: str) -> None:
    (here / "s.toml").write_bytes(content)
    with pytest.raises(SettingError, match=rf"s\.toml.*{named}"):
        gather(RunConfig, here / "s.toml", [])


def test_a_missing_file_is_named(here: Path) -> None:
    with pytest.raises(SettingError, match=r"none\.toml cannot be read: No such file"):
        gather(RunConfig, here / "none.toml", [])


@pytest.mark.parametrize("key", PATHS)
def test_paths_become_absolute(key: str, here: Path) -> None:
    assert absolute({key: "some/where"}) == {key: str(here / "some/where")}
    assert absolute({key: ""}) == {key: ""}
    assert absolute({key: "/some/where"}) == {key: "/some/where"}


@pytest.mark.parametrize("key", [*PATHS, *PERHAPS_PATHS])
def test_a_tilde_is_the_home_folder(key: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "some").mkdir()
    assert absolute({key: "~/some"}) == {key: str(here / "some")}


@pytest.mark.parametrize("key", PERHAPS_PATHS)
def test_names_become_absolute_only_where_there_is_such_a_folder(key: str, here: Path) -> None:
    (here / "tasks").mkdir()
    assert absolute({key: "tasks"}) == {key: str(here / "tasks")}
    assert absolute({key: "./tasks"}) == {key: str(here / "tasks")}
    assert absolute({key: "owner/tasks"}) == {key: "owner/tasks"}
    assert absolute({key: "builtin:tasks"}) == {key: "builtin:tasks"}


def test_every_setting_that_names_a_file_is_among_the_paths() -> None:
    sounds_like_one = [key for key in LEAVES if key.endswith(("-file", "-json", "-dir"))]
    assert sorted([*sounds_like_one, "roster", "resume"]) == sorted(PATHS)
