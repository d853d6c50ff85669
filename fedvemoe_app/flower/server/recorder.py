"""From sums and reports to the rows of the journal. The only writer during a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.lifecycle.rules import Event
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.evaluation.transfer import (
    Baseline,
    Baselines,
    negative_transfer,
)
from fedvemoe_app.flower.server.gathered import Gathered
from fedvemoe_app.flower.server.reports import read_reports
from fedvemoe_app.flower.shelf import State
from fedvemoe_app.flower.sums.one_reply import Tally
from fedvemoe_app.report.forecast import WORTH_SAYING, Forecast
from fedvemoe_app.report.journal import Journal
from fedvemoe_app.report.progress import Progress
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow

LOG = logging.getLogger("flwr")


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
        self._alone: dict[str, Baseline] = {}
        self._round = Gathered()
        self._epsilon: float | None = None
        self._forecast = Forecast(config.rounds.num_server_rounds, config.evaluation.eval_every)

    def baselines(self) -> Baselines:
        """Return what each silo scored last, and what its own expert did at its best, as known."""
        return Baselines(self._alone, self._config.to_flat())

    def phase(self, name: str, round_: int, silos: int) -> None:
        """Note that a phase begins."""
        last = self._config.rounds.num_server_rounds
        self.progress.phase_started(name, round_, last, silos)

    def exchanged(self, phase: str, round_: int, tally: Tally, attempt: int = 1) -> None:
        """Note how an exchange went; a silo that failed is an event, and so is a void sum."""
        spent = self._round.seconds
        spent[phase] = spent.get(phase, 0.0) + tally.seconds
        self._round.bytes_up += tally.bytes_up
        self._round.bytes_down += tally.bytes_down
        self._epsilon = tally.epsilon if tally.epsilon is not None else self._epsilon
        if phase == "assess":
            self._round.reports = tally.reports
        if phase == "train":
            self._round.lost = len(tally.failures)
        if tally.void:
            self._void(phase, round_, tally.void, attempt)
        for silo, why in tally.failures.items():
            LOG.warning("round %d, %s: %s did not take part: %s", round_, phase, silo, why)
            self._failed("dropout", round_, phase, silo, why)
        self.progress.phase_finished(tally.seconds)

    def _void(self, phase: str, round_: int, why: str, attempt: int) -> None:
        LOG.warning("round %d, %s: void, nothing applied: %s", round_, phase, why)
        numbers = {"phase": phase, "attempt": attempt}
        self._journal.event(
            EventRow(round=round_, event="void", slots=[], why=why, numbers=numbers)
        )
        self.progress.message(f"round {round_}, {phase}: void, {why}")

    def membership(self, round_: int, change: str, silo: str) -> None:
        """Write that a silo joined or left."""
        why = f"{silo} is {'within' if change == 'join' else 'out of'} reach"
        LOG.info("round %d, %s: %s", round_, change, why)
        row = EventRow(round=round_, event=change, slots=[], why=why, numbers={"silo": silo})
        self._journal.event(row)

    def changed(self, round_: int, event: Event) -> None:
        """Write a change of the bank's structure, with its reason."""
        LOG.info("round %d, %s: %s", round_, event.kind, event.why)
        self._journal.event(
            EventRow(
                round=round_,
                event=event.kind,
                slots=list(event.slots),
                why=event.why,
                numbers=event.numbers,
            )
        )

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
        row = self._round.round_row(round_, self._config.rounds.strategy, bank, clients)
        if self._epsilon is not None:
            row["epsilon"] = self._epsilon
        if evaluated:
            self._journal.tasks(self._round.task_rows(round_))
            self._journal.clients(clients)
        self._journal.round(row)
        self.progress.score(round_, row["ppl"], row["ppl_worst"])
        LOG.info("round %d: %s", round_, _in_words(row))
        self._foretell(round_)
        self._round = Gathered()

    def state(self) -> State:
        """Return what rows to come depend on."""
        alone = {silo: asdict(one) for silo, one in self._alone.items()}
        scored = self._forecast.scored
        return State({}, {"alone": alone, "epsilon": self._epsilon, "scored": scored})

    def restore(self, state: State) -> None:
        """Go on from there."""
        facts = state.facts
        self._alone = {silo: Baseline(**one) for silo, one in facts["alone"].items()}
        self._epsilon, self._forecast.scored = facts["epsilon"], facts["scored"]

    def _foretell(self, round_: int) -> None:
        """Say how long the run will take, once it can be judged; a short run says so in the log."""
        estimate = self._forecast.after(round_, self._round.seconds)
        if estimate:
            LOG.info("%s", estimate.words)
            if estimate.seconds >= WORTH_SAYING:
                self.progress.message(estimate.words)

    def _client_rows(self, round_: int, bank: Bank) -> list[ClientRow]:
        reports, refused = read_reports(self._round.reports, len(bank.slots))
        for silo, why in refused.items():
            LOG.warning("round %d: no row of %s: %s", round_, silo, why)
            self._failed("bad-report", round_, "assess", silo, why)
        self._alone |= {silo: one.baseline for silo, one in reports.items() if one.alone}
        known = negative_transfer({s: one.score.ppl for s, one in reports.items()}, self._local)
        return [report.row(round_, silo, bank, known.get(silo)) for silo, report in reports.items()]

    def _failed(self, event: str, round_: int, phase: str, silo: str, why: str) -> None:
        numbers = {"silo": silo, "phase": phase}
        self._journal.event(EventRow(round=round_, event=event, slots=[], why=why, numbers=numbers))


def _in_words(row: RoundRow) -> str:
    parts = [
        f"ppl {row['ppl']:.3f}" if row["ppl"] else "",
        f"worst silo {row['ppl_worst']:.3f}" if row["ppl_worst"] else "",
        f"exact match {row['exact_match']:.1f} %" if row["exact_match"] is not None else "",
        f"ROUGE-L {row['rouge_l']:.1f} %" if row["rouge_l"] is not None else "",
        f"training loss {row['loss_train']:.3f}" if row["loss_train"] is not None else "",
        f"epsilon {row['epsilon']:.3g}" if "epsilon" in row else "",
        f"{sum(row['seconds'].values()):.1f} s",
    ]
    return ", ".join(part for part in parts if part)
