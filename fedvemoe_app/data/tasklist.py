"""The names of tasks that a consortium agreed on: all that a server without data knows of them.

One task a line, its category after a tab where it has one; empty lines and lines that begin with
``#`` do not count.
"""

from __future__ import annotations

from pathlib import Path

from fedvemoe_app.errors import DataError

OTHERS = "other tasks"
"""The one row into which silos fold the scores of tasks that are not on the list."""


def read_task_list(path: str) -> dict[str, str]:
    """Return the category ("" where not given) of each task in a file, in order of name.

    Raises
    ------
    DataError
        If the file cannot be read, or names a task twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tasks-file = {path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, _, category = (part.strip() for part in line.partition("\t"))
        if not name or name.startswith("#"):
            continue
        if name in found or name == OTHERS:
            raise DataError(f"tasks-file = {path}, line {number}: {name} is there already")
        found[name] = category
    return dict(sorted(found.items()))


def write_task_list(path: Path, categories: dict[str, str]) -> None:
    """Write a list that ``read_task_list`` reads."""
    lines = (f"{name}\t{category}".rstrip() for name, category in sorted(categories.items()))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
