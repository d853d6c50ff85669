"""The map file of ``client-task-mode = explicit``: ``{"silo-00": ["task_a", ...], ...}``.

The file is JSON, or TOML where its name ends in ``.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from fedvemoe_app.data.reading.records import suggestion
from fedvemoe_app.data.reading.textfile import document, whole
from fedvemoe_app.errors import DataError

SiloMap = dict[str, list[str]]


def read_map(path: Path, silos: int, known: Sequence[str]) -> SiloMap:
    """Return every silo's tasks, in order of silo name.

    Raises
    ------
    DataError
        If the file cannot be read, has another number of silos, or names an unknown task.
    """
    content = _content(path)
    if len(content) != silos:
        raise DataError(
            f"{path}: maps {len(content)} silos, but the run has {silos}; make the two equal"
        )
    for silo, tasks in content.items():
        _check_silo(path, silo, tasks, known)
    in_order = sorted(content, key=lambda silo: (len(silo), silo))  # silo-99 before silo-100
    return {silo: content[silo] for silo in in_order}


def _content(path: Path) -> SiloMap:
    if path.suffix.lower() == ".toml":
        try:
            content: object = tomllib.loads(whole(path))
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{path}: broken TOML: {error}") from error
    else:
        content = document(path)
    if not isinstance(content, dict):
        raise DataError(f'{path}: must map silos to tasks, such as {{"silo-00": ["task_a"]}}')
    return content


def _check_silo(path: Path, silo: str, tasks: object, known: Sequence[str]) -> None:
    if not isinstance(tasks, list) or not tasks:
        raise DataError(f"{path}: {silo} must have a list of one or more task names")
    for task in tasks:
        if not isinstance(task, str) or task not in known:
            raise DataError(
                f"{path}: {silo} names the unknown task {task!r}{suggestion(str(task), known)}"
            )
    repeated = sorted({task for task in tasks if tasks.count(task) > 1})
    if repeated:
        raise DataError(f"{path}: {silo} names {', '.join(repeated)} twice; name a task once")
