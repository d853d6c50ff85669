"""Fed-VEMoE as a Flower strategy: orders out, sums in, the bank moved by ``em.round``.

Two exchanges a round: ``train`` (M-step on the bank a silo already holds) and ``assess`` (the new
bank goes down; E-step, and evaluation where due). An assessment of the untrained bank comes
first: it is row 0 of the journal and where silos get the bank for round 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.round import assess_step, train_step
from fedvemoe_app.em.shapes import assessment_shapes
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.errors import RunError
from fedvemoe_app.evaluation.sums import evaluation_shapes
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.flower.consortium import Consortium, require
from fedvemoe_app.flower.one_reply import Tally, sums_of
from fedvemoe_app.flower.recorder import Recorder
from fedvemoe_app.flower.start import find_clusters, start_shapes
from fedvemoe_app.flower.template import Scales, Template, first_scale
from fedvemoe_app.flower.wire import mark, put_bank, put_facts, put_tensors
from fedvemoe_app.model.family import factor_of

MOST_VOID = 3
"""Void sums in a row after which a run is given up."""


class FedVEMoE(Strategy):
    """Federated variational EM over a bank of experts, from sums alone.

    Parameters
    ----------
    config
        The run's settings.
    bank
        The bank at the start.
    consortium
        The silos that take part.
    rows
        The rows in which scores per task are summed.
    recorder
        Writes what happens to the journal.

    """

    def __init__(
        self,
        config: RunConfig,
        bank: Bank,
        consortium: Consortium,
        rows: TaskRows,
        recorder: Recorder,
    ) -> None:
        self.bank = bank
        self._config = config
        self._consortium = consortium
        self._rows = rows
        self._recorder = recorder
        self._start: dict[str, Tensor] = {}
        self._contributors = torch.full((len(bank.slots),), float(len(consortium.nodes)))
        self._members = self._counted = self._contributors
        self._void = 0
        rounds = config.rounds
        self._scales = Scales(
            first_scale(rounds.silo_weight, rounds.learning_rate, rounds.local_steps)
        )

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: object = None,
    ) -> Result:
        """Run all rounds on a summing grid; the bank and all settings are the strategy's own."""
        self._exchange(grid, "assess", 0)
        if self._config.em.start == "sketch" and self._config.em.k_init > 1:
            self._find_start(grid)
        self._recorder.round_done(0, self.bank)
        for round_ in range(1, self._config.rounds.num_server_rounds + 1):
            self._exchange(grid, "train", round_)
            self._exchange(grid, "assess", round_)
            self._recorder.round_done(round_, self.bank)
        return Result()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the round's sample to train; during warm-up the start's centroids come along."""
        content = RecordDict()
        living = self.bank.living()
        warming = bool(self._start) and server_round <= self._config.em.warmup_rounds
        self._counted = self._members if warming else self._contributors
        order = {"round": server_round, "open": self._open(self._counted)}
        put_facts(content, "order", order)
        put_tensors(content, "held", {"mark": mark(living)})
        if warming:
            put_tensors(content, "start", self._start)
        factor = factor_of(server_round, self._config.rounds.lora_factors)  # type: ignore[arg-type]
        endings = (".A", ".B") if factor == "both" else (f".{factor}",)
        trained = [name for name in living.experts if name.endswith(endings)]
        self._scales.template(living, trained).put(content)
        return self._messages(self._sample(server_round), "train", content, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the experts along the sum of the silos' weighted changes."""
        sums = self._accepted("train", server_round, replies)
        if sums is None:
            return None, None
        total = Update.from_arrays(sums)
        self._scales.learn(total)
        moved = train_step(
            self.bank.living(),
            total,
            silos=len(self._consortium.nodes),
            learning_rate=self._config.rounds.server_learning_rate,
            shrinkage=self._config.rounds.shrinkage,
        )
        self.bank = self.bank.with_living(moved)
        self._recorder.trained(total)
        self._recorder.counted(server_round, self.bank.slots, self._counted)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the bank to all silos when scores are due, else to the next round's sample."""
        due = self._evaluation_due(server_round)
        content = RecordDict()
        put_bank(content, self.bank.living())
        following = self._sample(server_round + 1)
        order = {
            "round": server_round,
            "evaluate": due,
            "tasks": self._rows.numbers,
            "next": following,
        }
        put_facts(content, "order", order)
        shapes = assessment_shapes(len(self.bank.slots))
        if due:
            shapes |= evaluation_shapes(self._rows.numbers)
        Template(shapes).put(content)
        asked = self._consortium.names if due else following
        return self._messages(asked, "evaluate", content, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take the bank's prior from the summed mass, and the scores to the journal."""
        sums = self._accepted("assess", server_round, replies)
        if sums is None:
            return None
        total = Assessment.from_arrays(sums)
        self._contributors = total.contributors
        concentration = self._config.em.prior_concentration
        living = assess_step(self.bank.living(), total, concentration=concentration)
        self.bank = self.bank.with_living(living)
        self._recorder.assessed(total, sums, self._rows)
        return None

    def summary(self) -> None:
        """Nothing to say: the journal holds the settings."""

    def _exchange(self, grid: Grid, phase: str, round_: int) -> None:
        """Run one phase of a round by Flower's own four methods."""
        none = ArrayRecord(), ConfigRecord()
        train = phase == "train"
        configure = self.configure_train if train else self.configure_evaluate
        messages = list(configure(round_, *none, grid))
        self._recorder.phase(phase, round_, len(messages))
        replies = grid.send_and_receive(messages, timeout=self._timeout)
        (self.aggregate_train if train else self.aggregate_evaluate)(round_, replies)

    def _find_start(self, grid: Grid) -> None:
        """Cluster the silos' gradient sketches, all silos in every exchange."""
        em = self._config.em
        shapes = start_shapes(em.sketch_size, em.k_init, em.sketch_restarts)

        def ask(query: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            content = RecordDict()
            put_facts(content, "order", {"round": 0})
            Template(shapes[query]).put(content)
            if tensors:
                put_tensors(content, "start", tensors)
            messages = self._messages(self._consortium.names, f"query.{query}", content, 0)
            self._recorder.phase(query, 0, len(messages))
            replies = grid.send_and_receive(messages, timeout=self._timeout)
            sums = self._accepted(query, 0, replies)
            if sums is None:
                raise RunError(f"no start: the sum of phase {query} is void; run again")
            return sums

        self._start, self._members = find_clusters(
            ask,
            clusters=em.k_init,
            restarts=em.sketch_restarts,
            iterations=em.sketch_iterations,
            seed=self._config.output.seed,
            least=self._config.output.c_min,
        )

    def _accepted(
        self, phase: str, round_: int, replies: Iterable[Message]
    ) -> dict[str, Tensor] | None:
        """Return an exchange's sums, noted in the journal; None where the sum is void.

        RunError for too few silos, and for too many void sums in a row.
        """
        (reply,) = replies
        tally = Tally.of(reply)
        self._recorder.exchanged(phase, round_, tally)
        self._void = self._void + 1 if tally.void else 0
        if self._void > MOST_VOID:
            raise RunError(f"{self._void} sums in a row are void; the last: {tally.void}")
        if tally.void:
            return None
        require(tally, self._config.rounds.min_silos, f"round {round_}, phase {phase}")
        return sums_of(reply)

    def _open(self, contributors: Tensor) -> list[bool]:
        """Return which experts are summed: a sum over fewer than c-min silos tells of each."""
        least = self._config.output.c_min
        return [count >= least for count in contributors.tolist()]

    def _evaluation_due(self, round_: int) -> bool:
        last = self._config.rounds.num_server_rounds
        return round_ % self._config.evaluation.eval_every == 0 or round_ == last

    def _sample(self, round_: int) -> list[str]:
        """Return who trains in a round; all in a warm-up whose clusters must be counted whole."""
        rounds, output = self._config.rounds, self._config.output
        warming = self._config.em.start == "sketch" and round_ <= self._config.em.warmup_rounds
        if warming and output.c_min > 1:
            return self._consortium.names
        return self._consortium.sample(rounds.fraction_train, output.seed, round_)

    def _messages(
        self, silos: Iterable[str], kind: str, content: RecordDict, round_: int
    ) -> list[Message]:
        return self._consortium.messages(silos, kind, content, round_=round_, ttl=self._timeout)

    @property
    def _timeout(self) -> float:
        return float(self._config.rounds.phase_timeout)
