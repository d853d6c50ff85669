"""Live curves elsewhere: TensorBoard, Weights & Biases, MLflow, fed by the journal row by row.

The journal stays the truth: a tracker gets each row after it is on the disk, and one that fails is
left out for the rest of the run with a warning. Nothing is sent anywhere unless the user names a
tracker that sends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedvemoe_app.errors import SettingError
from fedvemoe_app.report.journal import METRICS
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow, TaskRow
from fedvemoe_app.report.tracker_writers import WRITERS, Writer

LOG = logging.getLogger("flwr")
AUTO, NONE = "auto", "none"
_SCORES = ("ppl", "rouge_l", "exact_match")


def chosen(setting: str) -> list[str]:
    """Return the trackers that the setting ``trackers`` names.

    Raises
    ------
    SettingError
        Where one is not known, or is asked for by name and not installed.
    """
    if setting == AUTO:
        return ["tensorboard"] if find_spec("tensorboard") else []
    names = [name.strip() for name in setting.split(",") if name.strip()]
    if names == [NONE] or not names:
        return []
    for name in names:
        if name not in WRITERS:
            raise SettingError(
                f'trackers = "{setting}": {name} is not known; choose {AUTO}, {NONE}, or from '
                f"{', '.join(WRITERS)}, by comma"
            )
        if find_spec(name) is None:
            raise SettingError(
                f'trackers = "{setting}": {name} is not installed; run pip install -e '
                f"'.[{name}]', or leave it out"
            )
    return list(dict.fromkeys(names))


class Trackers:
    """Hands rows to every chosen tracker."""

    def __init__(self, setting: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._writers: dict[str, Writer] = {}
        for name in chosen(setting):
            self._try(name, lambda name=name: self._open(name, folder, config))  # type: ignore[misc]

    def round(self, row: RoundRow) -> None:
        """Track one round."""
        self._write(row["round"], dict(_of_round(row)))

    def tasks(self, rows: Sequence[TaskRow]) -> None:
        """Track the tasks of one round."""
        self._write_each(rows, lambda row: f"tasks/{row['task']}", _SCORES)

    def clients(self, rows: Sequence[ClientRow]) -> None:
        """Track the silos of one round."""
        self._write_each(
            rows, lambda row: f"silos/{row['client']}", (*_SCORES, "negative_transfer")
        )

    def event(self, row: EventRow) -> None:
        """Track one event as a sentence."""
        slots = ", ".join(map(str, row["slots"]))
        text = f"{row['event']} {slots}".rstrip() + f": {row['why']}"
        for name, writer in list(self._writers.items()):
            self._try(name, lambda writer=writer: writer.say(row["round"], text))  # type: ignore[misc]

    def close(self) -> None:
        """Let every tracker write what it still holds."""
        for name, writer in list(self._writers.items()):
            self._try(name, writer.close)
        self._writers.clear()

    def _open(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._writers[name] = WRITERS[name](folder, config)

    def _write_each(
        self, rows: Sequence[Any], prefix: Callable[[Any], str], keys: Sequence[str]
    ) -> None:
        values = {f"{prefix(row)}/{key}": row.get(key) for row in rows for key in keys}
        if rows:
            self._write(rows[0]["round"], values)

    def _write(self, step: int, values: Mapping[str, float | None]) -> None:
        known = {
            key: float(value)
            for key, value in values.items()
            if value is not None and math.isfinite(value)
        }
        for name, writer in list(self._writers.items()):
            self._try(name, lambda writer=writer: writer.write(step, known))  # type: ignore[misc]

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Do it; a tracker that fails, in whatever way its library likes, costs only itself."""
        try:
            action()
        except Exception as error:
            LOG.warning("the tracker %s failed and is left out from here on: %s", name, error)
            self._writers.pop(name, None)


def _of_round(row: RoundRow) -> Iterator[tuple[str, float | None]]:
    values: Mapping[str, Any] = row
    for key in (*METRICS, "k_active", "bytes_up", "bytes_down"):
        yield key, values.get(key)
    for phase, seconds in (values.get("seconds") or {}).items():
        yield f"seconds/{phase}", seconds
    for field in ("mass", "prior"):
        for slot, value in enumerate(values.get(field) or ()):
            yield f"{field}/slot_{slot:02d}", value
