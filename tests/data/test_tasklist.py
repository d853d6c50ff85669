"""The list of task names, all that a server without data knows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedvemoe_app.data.tasklist import OTHERS, read_task_list, write_task_list
from fedvemoe_app.errors import DataError


def test_names_come_in_order_with_their_categories(tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("# agreed in May\n\nzebra\tanimals\napple\n  plum \t fruit \n")
    assert list(read_task_list(str(file)).items()) == [
        ("apple", ""),
        ("plum", "fruit"),
        ("zebra", "animals"),
    ]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    categories = {"b c": "", "a": "code"}
    write_task_list(tmp_path / "tasks.txt", categories)
    assert read_task_list(str(tmp_path / "tasks.txt")) == categories


@pytest.mark.parametrize("twice", ["apple", OTHERS])
def test_no_name_stands_twice(twice: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text(f"apple\n{twice}\n")
    with pytest.raises(DataError, match=f"line 2: {twice}"):
        read_task_list(str(file))


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tasks-file = .*none"):
        read_task_list(str(tmp_path / "none"))
