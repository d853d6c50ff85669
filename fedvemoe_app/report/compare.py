"""Runs side by side: grouped by strategy, with the spread over seeds, against a reference.

Negative transfer is counted anew where a run of strategy ``local`` with the same seed is among the
runs: log-ppl of the silo in the run minus log-ppl of the silo trained alone, in nats per token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fedvemoe_app.errors import RunError
from fedvemoe_app.evaluation.transfer import negative_transfer, read_baselines, summarize
from fedvemoe_app.report.journal import Run, known
from fedvemoe_app.report.journal import summarize as summary_of
from fedvemoe_app.report.wording import UNKNOWN

LOCAL = "local"
BASELINES = "local_baselines.json"
NAMING = frozenset(
    {"seed", "run-name", "log-dir", "strategy", "local-baseline-json", "trackers", "reporting"}
)
"""Settings that do not make two runs of a strategy different kinds of run."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a comparison."""

    key: str
    heading: str
    digits: int
    higher_is_better: bool = False
    logarithmic: bool = False  # differences are of logarithms: nats per token
    sign: bool = False
    neutral: bool = False  # neither more nor less is better


METRICS = (
    Metric("ppl", "ppl", 3, logarithmic=True),
    Metric("ppl_worst", "ppl, worst silo", 3, logarithmic=True),
    Metric("exact_match", "exact match, %", 1, higher_is_better=True),
    Metric("rouge_l", "ROUGE-L, %", 1, higher_is_better=True),
    Metric("harm_share", "silos worse off, %", 0),
    Metric("harm_mean", "negative transfer, mean", 3, sign=True),
    Metric("harm_worst", "negative transfer, worst", 3, sign=True),
    Metric("experts", "experts", 1, neutral=True),
    Metric("megabytes", "MB sent", 2),
    Metric("seconds", "seconds", 0),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One run: its group, its seed, and the last known value of each metric."""

    run: Run
    group: str
    seed: int | None
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (None for one value) over ``count`` runs."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Entries by group, best perplexity first, and the group that the others are held against."""

    groups: Mapping[str, Sequence[Entry]]
    reference: str | None

    @property
    def entries(self) -> list[Entry]:
        """Every run, group by group."""
        return [entry for entries in self.groups.values() for entry in entries]

    def differences(self, group: str, metric: Metric) -> list[float]:
        """Return group minus reference for each seed that both have."""
        if self.reference is None:
            return []
        mine = _by_seed(self.groups[group], metric)
        theirs = _by_seed(self.groups[self.reference], metric)
        return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def compare(runs: Sequence[Run], reference: str | None = None) -> Comparison:
    """Group the runs and take their last values.

    Raises
    ------
    RunError
        Where ``cli.reference`` names no group, or a local run's baselines are damaged.
    """
    names = _names(runs)
    seeds = [run.config.get("seed") for run in runs]
    locals_ = {
        seed: _references(run)
        for run, seed in zip(runs, seeds, strict=True)
        if _strategy(run) == LOCAL
    }
    entries = [
        Entry(run, name, seed, _values(run, locals_.get(seed)))
        for run, name, seed in zip(runs, names, seeds, strict=True)
    ]
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.group, str(entry.seed))):
        groups.setdefault(entry.group, []).append(entry)
    ordered = sorted(groups, key=lambda name: _rank(groups[name]))
    found = {name: groups[name] for name in ordered}
    return Comparison(found, _chosen(list(found), reference))


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return mean and standard deviation of the known values; None where none is known."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    return Spread(fmean(given), stdev(given) if len(given) > 1 else None, len(given))


def task_perplexities(run: Run) -> dict[str, float]:
    """Return the last known perplexity of each task."""
    rows = {row["task"]: row["ppl"] for row in run.tasks if row.get("ppl") is not None}
    return {name: value for name, value in sorted(rows.items()) if value is not None}


def _strategy(run: Run) -> str:
    return str(run.config.get("strategy") or summary_of(run)["strategy"] or "unknown")


def _names(runs: Sequence[Run]) -> list[str]:
    """Name each run's group: its strategy, and the settings in which its strategy's runs differ."""
    names = []
    for run in runs:
        peers = [other for other in runs if _strategy(other) == _strategy(run)]
        keys = sorted({key for peer in peers for key in peer.config} - NAMING)
        own = [
            f"{key}={run.config.get(key, UNKNOWN)}"
            for key in keys
            if len({str(peer.config.get(key)) for peer in peers}) > 1
        ]
        names.append(" ".join([_strategy(run), *own]))
    return names


def _references(run: Run) -> dict[str, float]:
    """Return the perplexity to beat of each silo: from the run's baselines file, else its rows."""
    file = run.folder / BASELINES
    if file.exists():
        return read_baselines(file).references()
    return _perplexities(run)


def _perplexities(run: Run) -> dict[str, float]:
    return {name: row["ppl"] for name, row in run.last_clients.items() if row.get("ppl")}  # type: ignore[misc]


def _values(run: Run, alone: Mapping[str, float] | None) -> dict[str, float | None]:
    summary, harm = summary_of(run), _harm(run, alone)
    share = known(run.rounds, "negative_transfer_share", -1)
    if harm is not None:
        share = harm.share
    sent = sum((row.get("bytes_up") or 0) + (row.get("bytes_down") or 0) for row in run.rounds)
    return {
        **{key: summary["last"][key] for key in ("ppl", "ppl_worst", "exact_match", "rouge_l")},
        "harm_share": None if share is None or _strategy(run) == LOCAL else 100 * share,
        "harm_mean": harm.mean if harm else None,
        "harm_worst": harm.worst if harm else None,
        "experts": summary["experts_alive"],
        "megabytes": sent / 1e6,
        "seconds": summary["wall_seconds"],
    }


def _harm(run: Run, alone: Mapping[str, float] | None) -> Any:
    """Return negative transfer over silos: against the local run, else as the journal has it."""
    if _strategy(run) == LOCAL:
        return None
    if alone:
        return summarize(negative_transfer(_perplexities(run), alone).values())
    own = (row.get("negative_transfer") for row in run.last_clients.values())
    return summarize(value for value in own if value is not None)


def _by_seed(entries: Sequence[Entry], metric: Metric) -> dict[int | None, float]:
    """Return the mean of each seed's runs; of the logarithm for perplexities."""
    found: dict[int | None, list[float]] = {}
    for entry in entries:
        value = entry.values[metric.key]
        if value is not None:
            found.setdefault(entry.seed, []).append(
                math.log(value) if metric.logarithmic else value
            )
    return {seed: fmean(values) for seed, values in found.items()}


def _rank(entries: Sequence[Entry]) -> float:
    found = spread(entry.values["ppl"] for entry in entries)
    return math.inf if found is None else found.mean


def _chosen(groups: Sequence[str], reference: str | None) -> str | None:
    """Return the group that ``cli.reference`` names; local where it is not given and is there."""
    wanted = reference or LOCAL
    fitting = [name for name in groups if wanted in (name, name.split(" ")[0])]
    if wanted in fitting:
        return wanted
    if len(fitting) == 1:
        return fitting[0]
    if reference is None:
        return None
    raise RunError(
        f'--reference "{reference}" names {len(fitting) or "none"} of the groups: '
        f"choose from {', '.join(groups)}"
    )
