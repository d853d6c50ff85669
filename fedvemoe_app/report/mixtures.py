"""The mixtures that a run leaves: the bank's prior, and what each silo believed at the end.

Only shared experts are in a run's folder. A silo's private expert never left it, so a mixture
read from here is the shared part, renormalised.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.report.journal import Run, read_run
from fedvemoe_app.report.rows import ClientRow

SHARE = 0.05
"""Switching probability of a mixture that was not chosen on any silo's probe."""

BASE = "base"
_SLOT = re.compile(r"slot_(\d+)")


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weights by slot, which sum to one, and the switching probability of the filter.

    Without weights it is the bare base, with no expert at all.
    """

    weights: Mapping[int, float]
    share: float = SHARE

    def __str__(self) -> str:
        """Return the form that ``parse`` reads."""
        return ",".join(f"{slot}={weight:.4g}" for slot, weight in self.weights.items()) or BASE


def living(folder: Path) -> dict[int, Path]:
    """Return the adapter folder of each expert that was alive at the end, by slot.

    Raises
    ------
    RunError
        If ``folder`` is no run, or the run left no experts.
    """
    found = {
        int(match[1]): path
        for path in sorted((folder / "experts").glob("slot_*"))
        if (match := _SLOT.fullmatch(path.name))
    }
    if not found:
        read_run(folder)  # says so where this is no run at all
        raise RunError(
            f"{folder / 'experts'} holds no experts: a run saves them when it ends; "
            "let it end, or give the folder of a run that has"
        )
    return found


def prior(run: Run, slots: Iterable[int]) -> Mixture:
    """Return the bank's prior over ``slots`` after the last round; uniform where none is known."""
    known = next((row["prior"] for row in reversed(run.rounds) if row.get("prior")), None)
    weights = {slot: known[slot] if known else 1.0 for slot in slots}
    return Mixture(normalised(weights))


def of_client(run: Run, client: str, slots: Iterable[int]) -> Mixture:
    """Return the shared part of what a silo believed in the last round that says so.

    Raises
    ------
    RunError
        If no silo reported, there is no such silo, or it used no shared expert.
    """
    row = _row(run, client)
    reported = row.get("responsibilities") or ()
    weights = {
        slot: reported[slot] for slot in slots if slot < len(reported) and reported[slot] > 0
    }
    if not weights:
        raise RunError(
            f"{run.folder}: {client} used no shared expert that is still alive; generate at the "
            "silo itself, or give a mixture"
        )
    share = row.get("share")
    return Mixture(normalised(weights), SHARE if share is None else share)


def _row(run: Run, client: str) -> ClientRow:
    rows = run.last_clients
    if not rows:
        raise RunError(
            f"{run.folder} says nothing of single silos (reporting = aggregate, or no evaluation "
            "yet): give a mixture instead; `fedvemoe onboard` infers one from a silo's data"
        )
    if client not in rows:
        close = difflib.get_close_matches(str(client), rows, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise RunError(f"{run.folder} has no silo {client}, but {', '.join(rows)}{hint}")
    return rows[client]


def parse(text: str, slots: Iterable[int], share: float = SHARE) -> Mixture:
    """Read ``0=0.7,2=0.3`` (weights by slot, in any unit) or ``base``.

    Raises
    ------
    SettingError
        If ``text`` has another form, or names an expert that is not among ``slots``.
    """
    if text.strip() == BASE:
        return Mixture({}, share)
    weights: dict[int, float] = {}
    for part in text.split(","):
        slot, _, weight = part.partition("=")
        try:
            weights[int(slot)] = float(weight)
        except ValueError:
            raise SettingError(
                f'mixture "{text}": "{part}" is not slot=weight; write 0=0.7,2=0.3, or base'
            ) from None
    return checked(weights, slots, share)


def checked(weights: Mapping[int, float], slots: Iterable[int], share: float = SHARE) -> Mixture:
    """Return the mixture of given weights, normalised; SettingError where one is impossible."""
    alive = list(slots)
    if not isinstance(weights, Mapping):
        raise SettingError(f"mixture = {weights!r}: give weights by slot, such as {{0: 0.7}}")
    for slot, weight in weights.items():
        if slot not in alive:
            known = ", ".join(map(str, alive))
            raise SettingError(f"mixture: there is no expert {slot}; the run has {known}")
        if not isinstance(weight, Real) or not 0 <= weight < float("inf"):
            raise SettingError(
                f"mixture: expert {slot} has weight {weight!r}; it must be a number, at least 0"
            )
    if not 0 <= share <= 1:
        raise SettingError(f"share = {share} must be between 0 and 1")
    kept = {slot: weight for slot, weight in weights.items() if weight > 0}
    if weights and not kept:
        raise SettingError("mixture: every weight is 0; give one expert a weight above 0")
    return Mixture(normalised(kept), share)


def normalised(weights: Mapping[int, float]) -> dict[int, float]:
    """Return the weights divided by their sum."""
    total = sum(weights.values())
    return {slot: weight / total for slot, weight in weights.items()}
