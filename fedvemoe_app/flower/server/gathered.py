"""One round's sums and reports as rows of the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.evaluation.histogram import worst
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.evaluation.transfer import TransferSummary, summarize, summarize_sums
from fedvemoe_app.flower.server.reports import over_slots
from fedvemoe_app.report.rows import ClientRow, RoundRow, TaskRow


@dataclass(slots=True)
class Gathered:
    """What is gathered of one round until its rows are written."""

    update: Update | None = None
    assessment: Assessment | None = None
    scores: Sequence[Score] = ()
    rows: TaskRows | None = None
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    reports: Mapping[str, Any] = field(default_factory=dict)
    lost: int = 0  # silos that were asked to train and are not in the sum
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def round_row(
        self, round_: int, strategy: str, bank: Bank, clients: Sequence[ClientRow]
    ) -> RoundRow:
        """Return the round's row; ``clients`` are the rows of the silos that reported."""
        total = pool(self.scores)
        harm = self._harm(clients)
        update = self.update
        row = RoundRow(
            round=round_,
            strategy=strategy,
            k_active=len(bank.slots),
            mass=self._mass(bank),
            prior=bank.prior.tolist(),
            loss_train=float(update.loss / update.tokens) if update and update.tokens else None,
            ppl=total.ppl,
            ppl_worst=self._worst(clients),
            rouge_l=total.rouge_l_percent,
            exact_match=total.exact_match_percent,
            negative_transfer_share=harm.share if harm else None,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            seconds=self.seconds,
        )
        if total.tokens:
            row["ppl_histogram"] = _counts(self.figures["ppl_histogram"])
            buckets = _counts(self.figures["transfer_histogram"])
            row |= {"transfer_histogram": buckets} if any(buckets) else {}
        if harm:
            row["negative_transfer_mean"] = harm.mean
            row["negative_transfer_mean_positive"] = harm.mean_positive
            row["negative_transfer_worst"] = harm.worst
        return row

    def _worst(self, clients: Sequence[ClientRow]) -> float | None:
        """Return the worst silo's perplexity; where not all silos report, its bucket's end."""
        if self._tell_all(clients):
            return max((row["ppl"] for row in clients if row["ppl"]), default=None)
        buckets = self.figures.get("ppl_histogram")
        return None if buckets is None else worst(buckets)

    def _harm(self, clients: Sequence[ClientRow]) -> TransferSummary | None:
        """Return negative transfer over the silos, exact where all report, else from the sums."""
        if self._tell_all(clients):
            values = (row["negative_transfer"] for row in clients)
            return summarize(value for value in values if value is not None)
        found = self.figures
        if not found:
            return None
        return summarize_sums(found["transfer"], found["transfer_histogram"])

    def _tell_all(self, clients: Sequence[ClientRow]) -> bool:
        """Whether the rows of silos cover all silos whose figures were summed."""
        total = self.assessment
        return total is not None and bool(clients) and len(clients) >= round(float(total.silos))

    def _mass(self, bank: Bank) -> list[float] | None:
        total = self.assessment
        if total is None:
            return None
        mass: list[float] = over_slots(total.mass, bank).tolist()
        return mass

    def task_rows(self, round_: int) -> list[TaskRow]:
        """Return the rows of the tasks."""
        rows = self.rows
        if rows is None:
            return []
        return [
            TaskRow(
                round=round_,
                task=task,
                category=category,
                ppl=score.ppl,
                rouge_l=score.rouge_l_percent,
                exact_match=score.exact_match_percent,
                tokens=int(score.tokens),
                examples=int(score.sequences),
            )
            for task, category, score in zip(rows.names, rows.categories, self.scores, strict=True)
        ]


def _counts(buckets: Tensor) -> list[int]:
    return [round(count) for count in buckets.tolist()]
