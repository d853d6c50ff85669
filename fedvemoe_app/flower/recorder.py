"""From sums and reports to the rows of the journal. The only writer during a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.evaluation.histogram import worst
from fedvemoe_app.evaluation.scores import Score, pool
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.evaluation.transfer import (
    TransferSummary,
    negative_transfer,
    summarize,
    summarize_sums,
)
from fedvemoe_app.flower.one_reply import Tally
from fedvemoe_app.flower.reports import over_slots, read_reports
from fedvemoe_app.report.journal import Journal
from fedvemoe_app.report.progress import Progress
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow, TaskRow

LOG = logging.getLogger("flwr")


@dataclass(slots=True)
class _Round:
    """What is gathered of one round until its row is written."""

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


class Recorder:
    """Writes one round's rows once it is done, and its progress while it is not.

    Parameters
    ----------
    local
        Perplexity of each silo's local baseline, for silos that report but know none themselves.

    """

    def __init__(
        self,
        journal: Journal,
        config: RunConfig,
        *,
        local: Mapping[str, float],
    ) -> None:
        self.progress = Progress(journal.folder)
        self._journal = journal
        self._config = config
        self._local = local
        self._round = _Round()

    def phase(self, name: str, round_: int, silos: int) -> None:
        """Note that a phase begins."""
        last = self._config.rounds.num_server_rounds
        self.progress.phase_started(name, round_, last, silos)

    def exchanged(self, phase: str, round_: int, tally: Tally) -> None:
        """Note how an exchange went; a silo that failed is an event."""
        spent = self._round.seconds
        spent[phase] = spent.get(phase, 0.0) + tally.seconds
        self._round.bytes_up += tally.bytes_up
        self._round.bytes_down += tally.bytes_down
        if phase == "assess":
            self._round.reports = tally.reports
        if phase == "train":
            self._round.lost = len(tally.failures)
        if tally.void:
            LOG.warning("round %d, %s: void, nothing applied: %s", round_, phase, tally.void)
            self._journal.event(
                EventRow(
                    round=round_, event="void", slots=[], why=tally.void, numbers={"phase": phase}
                )
            )
        for silo, why in tally.failures.items():
            LOG.warning("round %d, %s: %s did not take part: %s", round_, phase, silo, why)
            self._failed("dropout", round_, phase, silo, why)
        self.progress.phase_finished(tally.seconds)

    def trained(self, total: Update) -> None:
        """Keep the sums of the M-step for the round's row."""
        self._round.update = total

    def counted(self, round_: int, slots: Sequence[int], silos: Tensor) -> None:
        """Note which summed experts may hold fewer than c-min silos, of ``silos`` [K] counted.

        How many are left is not asked for: the difference would tell what a lost silo trains.
        """
        least, lost = self._config.output.c_min, self._round.lost
        few = [k for k, count in enumerate(silos.tolist()) if least <= count < least + lost]
        if few and least > 1:
            numbers = {"counted": [round(float(silos[k])) for k in few], "lost": lost}
            why = f"{lost} silos fell out after the count: fewer than c-min = {least} may be left"
            LOG.warning("round %d, experts %s: %s", round_, [slots[k] for k in few], why)
            self._journal.event(
                EventRow(
                    round=round_,
                    event="below-c-min",
                    slots=[slots[k] for k in few],
                    why=why,
                    numbers=numbers,
                )
            )

    def assessed(self, total: Assessment, sums: Mapping[str, Tensor], rows: TaskRows) -> None:
        """Keep the sums of the E-step; with an evaluation, scores [rows, 6] and histograms."""
        self._round.assessment = total
        if "scores" in sums:
            self._round.scores = [Score.from_array(row) for row in sums["scores"].numpy()]
            self._round.rows, self._round.figures = rows, sums

    def round_done(self, round_: int, bank: Bank) -> None:
        """Write the rows of a round, of its tasks and, under full reporting, of its silos."""
        evaluated = any(score.tokens for score in self._round.scores)
        clients = self._client_rows(round_, bank) if evaluated else []
        row = self._round_row(round_, bank, clients)
        if evaluated:
            self._journal.tasks(self._task_rows(round_))
            self._journal.clients(clients)
        self._journal.round(row)
        self.progress.score(round_, row["ppl"], row["ppl_worst"])
        LOG.info("round %d: %s", round_, _in_words(row))
        self._round = _Round()

    def _round_row(self, round_: int, bank: Bank, clients: Sequence[ClientRow]) -> RoundRow:
        total = pool(self._round.scores)
        harm = self._harm(clients)
        update = self._round.update
        row = RoundRow(
            round=round_,
            strategy=self._config.rounds.strategy,
            k_active=len(bank.slots),
            mass=self._mass(bank),
            prior=bank.prior.tolist(),
            loss_train=float(update.loss / update.tokens) if update else None,
            ppl=total.ppl,
            ppl_worst=self._worst(clients),
            rouge_l=total.rouge_l_percent,
            exact_match=total.exact_match_percent,
            negative_transfer_share=harm.share if harm else None,
            bytes_up=self._round.bytes_up,
            bytes_down=self._round.bytes_down,
            seconds=self._round.seconds,
        )
        if total.tokens:
            row["ppl_histogram"] = _counts(self._round.figures["ppl_histogram"])
            buckets = _counts(self._round.figures["transfer_histogram"])
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
        buckets = self._round.figures.get("ppl_histogram")
        return None if buckets is None else worst(buckets)

    def _harm(self, clients: Sequence[ClientRow]) -> TransferSummary | None:
        """Return negative transfer over the silos, exact where all report, else from the sums."""
        if self._tell_all(clients):
            values = (row["negative_transfer"] for row in clients)
            return summarize(value for value in values if value is not None)
        found = self._round.figures
        if not found:
            return None
        return summarize_sums(found["transfer"], found["transfer_histogram"])

    def _tell_all(self, clients: Sequence[ClientRow]) -> bool:
        """Whether the rows of silos cover all silos whose figures were summed."""
        total = self._round.assessment
        return total is not None and bool(clients) and len(clients) >= round(float(total.silos))

    def _mass(self, bank: Bank) -> list[float] | None:
        total = self._round.assessment
        if total is None:
            return None
        mass: list[float] = over_slots(total.mass, bank).tolist()
        return mass

    def _task_rows(self, round_: int) -> list[TaskRow]:
        rows = self._round.rows
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
            for task, category, score in zip(
                rows.names, rows.categories, self._round.scores, strict=True
            )
        ]

    def _client_rows(self, round_: int, bank: Bank) -> list[ClientRow]:
        reports, refused = read_reports(self._round.reports, len(bank.slots))
        for silo, why in refused.items():
            LOG.warning("round %d: no row of %s: %s", round_, silo, why)
            self._failed("bad-report", round_, "assess", silo, why)
        known = negative_transfer({s: one.score.ppl for s, one in reports.items()}, self._local)
        return [report.row(round_, silo, bank, known.get(silo)) for silo, report in reports.items()]

    def _failed(self, event: str, round_: int, phase: str, silo: str, why: str) -> None:
        numbers = {"silo": silo, "phase": phase}
        self._journal.event(EventRow(round=round_, event=event, slots=[], why=why, numbers=numbers))


def _counts(buckets: Tensor) -> list[int]:
    return [round(count) for count in buckets.tolist()]


def _in_words(row: RoundRow) -> str:
    parts = [
        f"ppl {row['ppl']:.3f}" if row["ppl"] else "",
        f"worst silo {row['ppl_worst']:.3f}" if row["ppl_worst"] else "",
        f"exact match {row['exact_match']:.1f} %" if row["exact_match"] is not None else "",
        f"ROUGE-L {row['rouge_l']:.1f} %" if row["rouge_l"] is not None else "",
        f"training loss {row['loss_train']:.3f}" if row["loss_train"] is not None else "",
        f"{sum(row['seconds'].values()):.1f} s",
    ]
    return ", ".join(part for part in parts if part)
