"""Negative transfer: what a silo loses by federating, against training alone.

A silo's value is log-ppl(federated) - log-ppl(local), in nats per token; above 0 the federation
harms it. The choice of the local baseline decides the answer: local training to the last step
over-fits and flatters the federation, so the early-stopped baseline is taken where it is known.
A silo can work out its own value; sums of it tell share and mean exactly, and nobody's value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedvemoe_app.errors import DataError
from fedvemoe_app.evaluation.histogram import transfer_worst
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.jsontext import parse

ROUNDING = 1e-9
"""Nats per token: figures closer together are the same one, and nobody is harmed by its last bits.

A silo whose own expert predicts by itself has exactly the score of its local baseline.
"""

SUMS = 4
"""Numbers in a silo's sums: is its value known, is it harm, the value, its positive part."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One silo trained alone: perplexity after the last step, and at the best step on its probe."""

    ppl: float
    ppl_early_stopped: float | None = None
    tokens: int | None = None  # target tokens scored


@dataclass(frozen=True, slots=True)
class Baselines:
    """The local baselines of a consortium, by silo, and the settings they were trained with."""

    clients: Mapping[str, Baseline]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def references(self) -> dict[str, float]:
        """Return each silo's perplexity to beat: early-stopped where known for all, else last."""
        stopped = {name: one.ppl_early_stopped for name, one in self.clients.items()}
        known = {name: ppl for name, ppl in stopped.items() if ppl is not None}
        if len(known) == len(self.clients):
            return known
        return {name: one.ppl for name, one in self.clients.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``read_baselines`` reads from a file."""
        clients = {name: asdict(one) for name, one in self.clients.items()}
        return {"clients": clients, "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """Negative transfer over silos, in nats per token (``share`` in [0, 1])."""

    share: float  # of silos above 0
    worst: float  # from sums: the upper end of the worst silo's bucket
    mean: float
    mean_positive: float  # mean of max(0, value): the harm, not balanced by anybody's gain


def own_transfer(score: Score, local: float | None) -> float | None:
    """Return a silo's log-ppl(federated) - log-ppl(local), nats per token; None where unknown."""
    if local is None or not score.tokens:
        return None
    return _apart(score.nll / score.tokens, math.log(local))


def transfer_sums(harm: float | None) -> Tensor:
    """Return one silo's sums [4] float64 (see ``SUMS``); all zero where its value is unknown."""
    found = [0.0] * SUMS if harm is None else [1.0, float(harm > 0), harm, max(0.0, harm)]
    return torch.tensor(found, dtype=torch.float64)


def summarize_sums(sums: Tensor, buckets: Tensor) -> TransferSummary | None:
    """Return the summary of silos from their summed ``sums`` [4] and histogram [40]."""
    known, harmed, total, positive = sums.tolist()
    end = transfer_worst(buckets)
    if end is None or round(known) < 1:
        return None
    return TransferSummary(harmed / known, end, total / known, positive / known)


def negative_transfer(
    federated: Mapping[str, float | None], local: Mapping[str, float]
) -> dict[str, float]:
    """Return log-ppl(federated) - log-ppl(local) per silo that has both, in nats per token."""
    return {
        name: _apart(math.log(ppl), math.log(local[name]))
        for name, ppl in federated.items()
        if ppl is not None and name in local
    }


def _apart(federated: float, local: float) -> float:
    harm = federated - local
    return harm if abs(harm) > ROUNDING else 0.0


def summarize(values: Iterable[float]) -> TransferSummary | None:
    """Return share above 0, worst, mean and mean positive part; None where nothing is known."""
    known = list(values)
    if not known:
        return None
    return TransferSummary(
        share=sum(value > 0 for value in known) / len(known),
        worst=max(known),
        mean=sum(known) / len(known),
        mean_positive=sum(max(0.0, value) for value in known) / len(known),
    )


def read_baselines(path: Path, clients: Iterable[str] | None = None) -> Baselines:
    """Read a file of local baselines and check that it covers ``clients``.

    The file holds ``{"clients": {"silo-00": {"ppl": 3.2, "ppl_early_stopped": 3.0, "tokens":
    812}, ...}, "settings": {...}}``; in a client only ``ppl`` is required.

    Raises
    ------
    DataError
        Where the file is missing, is no JSON, does not follow the schema, or lacks a client.
    """
    content = _load(path)
    found = {str(name): _baseline(path, name, row) for name, row in content["clients"].items()}
    missing = sorted(set(clients or ()) - set(found))
    if missing:
        raise DataError(
            f"local-baseline-json = {path} has no baseline for {', '.join(missing)}; it knows "
            f"{', '.join(sorted(found))}. Make it again for the same silos"
        )
    return Baselines(found, content["settings"])


def _load(path: Path) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"local-baseline-json = {path} cannot be read ({error.strerror}); give a "
            "file of local baselines, or leave the setting empty"
        ) from error
    except ValueError as error:
        raise DataError(f"local-baseline-json = {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("clients"), dict):
        raise DataError(
            f'local-baseline-json = {path} must hold {{"clients": {{"silo-00": {{"ppl": ...}}}}}}'
        )
    if not content["clients"]:
        raise DataError(f'local-baseline-json = {path}: "clients" is empty')
    if not isinstance(content.setdefault("settings", {}), dict):
        raise DataError(f'local-baseline-json = {path}: "settings" must be an object')
    return content


def _baseline(path: Path, name: str, row: Any) -> Baseline:
    where = f"local-baseline-json = {path}, client {name}"
    if not isinstance(row, dict) or "ppl" not in row:
        raise DataError(f'{where}: must be an object with the key "ppl"')
    ppl = _number(where, row, "ppl", least=1)
    if ppl is None:
        raise DataError(f'{where}: "ppl" must not be null')
    tokens = _number(where, row, "tokens", least=0)
    return Baseline(
        ppl=ppl,
        ppl_early_stopped=_number(where, row, "ppl_early_stopped", least=1),
        tokens=None if tokens is None else int(tokens),
    )


def _number(where: str, row: dict[str, Any], key: str, least: float) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < least:
        raise DataError(
            f'{where}: "{key}" must be a finite number of at least {least}, not {value!r}'
        )
    return float(value)
