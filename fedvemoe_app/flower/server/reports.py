"""What a silo says of itself under full reporting, checked before it is written down.

A report is for the journal alone. One of a wrong form costs the silo its row, and never the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import spread
from fedvemoe_app.errors import RunError
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.transfer import Baseline
from fedvemoe_app.report.rows import ClientRow

MOST = 1e18
"""Largest number in a report."""


@dataclass(frozen=True, slots=True)
class Report:
    """One silo's figures after an assessment.

    ``responsibilities`` over the living experts, ``active`` their numbers among the living;
    ``private`` the weight of its own expert, and ``alone`` the score of that expert by itself.
    """

    tasks: list[str]
    category: str
    domain: str
    score: Score
    responsibilities: list[float]
    active: list[int]
    share: float
    private: float
    negative_transfer: float | None
    alone: Score | None

    @property
    def baseline(self) -> Baseline:
        """What the silo scored, and what its own expert did at its best."""
        alone = self.alone or Score()
        return Baseline(self.score.ppl or math.inf, alone.ppl, int(alone.tokens))

    @classmethod
    def read(cls, facts: Any, experts: int) -> Self:
        """Read a report on ``experts`` living experts; RunError where it has another form."""
        if not isinstance(facts, Mapping):
            raise RunError("its report is no object")
        report = cls(
            tasks=_field(facts, "tasks", _are(_is_text)),
            category=_field(facts, "category", _is_text),
            domain=_field(facts, "domain", _is_text),
            score=_score(_field(facts, "scores", lambda value: isinstance(value, Mapping))),
            responsibilities=_field(facts, "responsibilities", _are(_is_number)),
            active=_field(facts, "active", _are(lambda k: type(k) is int and 0 <= k < experts)),
            share=_field(facts, "share", _is_number),
            private=_field(facts, "private", _is_number),
            alone=_score({"alone": facts["alone"]}) if "alone" in facts else None,
            negative_transfer=_field(
                facts, "negative_transfer", lambda value: value is None or _is_number(value)
            ),
        )
        if len(report.responsibilities) != experts:
            raise RunError(
                f"its report has {len(report.responsibilities)} responsibilities for "
                f"{experts} experts"
            )
        return report

    def row(self, round_: int, silo: str, bank: Bank, harm: float | None) -> ClientRow:
        """Return the silo's row; ``harm`` is its negative transfer where the server knows it."""
        return ClientRow(
            round=round_,
            client=silo,
            tasks=self.tasks,
            category=self.category,
            domain=self.domain,
            ppl=self.score.ppl,
            rouge_l=self.score.rouge_l_percent,
            exact_match=self.score.exact_match_percent,
            responsibilities=over_slots(self.responsibilities, bank).tolist(),
            active=[bank.slots[k] for k in self.active],
            share=self.share,
            negative_transfer=self.negative_transfer if harm is None else harm,
            private=self.private,
            ppl_alone=self.alone.ppl if self.alone else None,
        )


def over_slots(values: Tensor | Sequence[float], bank: Bank) -> Tensor:
    """Return values [living] of the living experts over all slots [K_max]."""
    living = torch.as_tensor(values, dtype=torch.float64)
    return spread(living, torch.tensor(bank.slots), len(bank.alive))


def read_reports(
    found: Mapping[str, Any], experts: int
) -> tuple[dict[str, Report], dict[str, str]]:
    """Return the reports by silo, and why those of other silos cannot be read."""
    reports: dict[str, Report] = {}
    refused: dict[str, str] = {}
    for silo, facts in found.items():
        try:
            reports[silo] = Report.read(facts, experts)
        except RunError as error:
            refused[silo] = str(error)
    return reports, refused


def _field(facts: Mapping[str, Any], key: str, accepts: Callable[[Any], bool]) -> Any:
    if key not in facts or not accepts(facts[key]):
        raise RunError(f"its report has no {key} that can be read")
    return facts[key]


def _score(rows: Mapping[str, Any]) -> Score:
    size = len(Score().to_array())
    for task, row in rows.items():
        if not (_are(_is_number)(row) and len(row) == size and min(row) >= 0):
            raise RunError(f"its report has no scores of task {task[:80]} that can be read")
    return pool(Score.from_array(np.array(row, dtype=np.float64)) for row in rows.values())


def _are(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Sequence) and all(map(accepts, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
