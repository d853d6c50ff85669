"""The loop of all methods as a Flower strategy: orders out, sums in, the bank moved by a rule.

Two exchanges a round: ``train`` (M-step on the bank a silo already holds) and ``assess`` (the new
bank goes down; E-step, and evaluation where due). An assessment of the untrained bank comes
first: it is row 0 of the journal and where silos get the bank for round 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.round import assess_step
from fedvemoe_app.em.shapes import assessment_shapes
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Assessment, Update
from fedvemoe_app.errors import RunError
from fedvemoe_app.evaluation.sums import evaluation_shapes
from fedvemoe_app.evaluation.task_rows import TaskRows
from fedvemoe_app.flower.messages.template import Scales, Template, first_scale
from fedvemoe_app.flower.messages.wire import mark, put_bank, put_facts, put_tensors
from fedvemoe_app.flower.resume.checkpoint import Stateful
from fedvemoe_app.flower.resume.standing import Rule, Standing
from fedvemoe_app.flower.server import orders
from fedvemoe_app.flower.server.consortium import Consortium
from fedvemoe_app.flower.server.crowds import Crowds
from fedvemoe_app.flower.server.membership import Membership
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.server.rollcall import Rollcall
from fedvemoe_app.flower.server.start import clusters_of
from fedvemoe_app.flower.server.structure import structure_of
from fedvemoe_app.flower.server.vetting import Vetting, accepted
from fedvemoe_app.strategies.method import Method


class FedVEMoE(Strategy):
    """Federated rounds over a bank of experts, from sums alone, by any method.

    Parameters
    ----------
    config, method, bank
        The run's settings, its federated algorithm, and the bank at the start.
    membership
        The silos that take part, as they come and go.
    rows
        The rows in which scores per task are summed.
    recorder
        Writes what happens to the journal.

    Attributes
    ----------
    done
        The last complete round; -1 before row 0.
    ended
        Called with each round once it is complete.

    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        bank: Bank,
        membership: Membership,
        rows: TaskRows,
        recorder: Recorder,
    ) -> None:
        self.done = -1
        self.ended: Callable[[int], None] = lambda round_: None
        self._at = Standing(bank)
        self._config = config
        self._method = method
        self._server = method.server()
        self._membership = membership
        self._rows = rows
        self._recorder = recorder
        self.crowds = Crowds(len(bank.alive), config.output.c_min)
        self._structure = structure_of(config, method, len(bank.alive), recorder.changed)
        rounds = config.rounds
        self._vetting = Vetting(recorder, rounds, noised=config.dp.on)
        self._rollcall = Rollcall(
            config, membership, recorder.membership, self.crowds.left, shared=method.shared
        )
        self._scales = Scales(
            first_scale(rounds.silo_weight, rounds.learning_rate, rounds.local_steps)
        )

    def start(self, grid: Grid, *others: object, **named: object) -> Result:
        """Run all rounds to come on a summing grid; bank and settings are the strategy's own."""
        for round_ in range(self.done + 1, self._config.rounds.num_server_rounds + 1):
            if round_:
                self._exchange(grid, "train", round_)
                self._meet(grid, round_)
            self._exchange(grid, "assess", round_)
            if round_ == 0 and self._config.em.start == "sketch" and self._config.em.k_init > 1:
                self._find_start(grid)
            self._recorder.round_done(round_, self.bank)
            self.ended(round_)
        return Result()

    @property
    def bank(self) -> Bank:
        """The bank as it is now."""
        return self._at.bank

    @property
    def parts(self) -> dict[str, Stateful]:
        """What has a state from round to round, by name."""
        names = ("bank", "rule", "crowds", "scales", "vetting", "rollcall", "recorder", "lifecycle")
        parts = (self._at, Rule(self._server), self.crowds, self._scales, self._vetting)
        others = (self._rollcall, self._recorder, self._structure)
        found = zip(names, (*parts, *others), strict=True)
        return {name: part for name, part in found if part is not None}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the round's sample to train; during warm-up the start's centroids come along."""
        content = RecordDict()
        if not self._method.shared:
            put_facts(content, "order", {"round": server_round})
            orders.METRICS.put(content)
            trainers = self._rollcall.trainers(server_round)
            return self._messages(trainers, "train", content, server_round)
        living = self.bank.living()
        warming = bool(self._at.start) and server_round <= self._config.em.warmup_rounds
        crowded = self.crowds.crowded(self.bank, warming=warming)
        opened = self._structure.open(crowded, self.bank) if self._structure else crowded
        put_facts(content, "order", {"round": server_round, "open": opened.tolist()})
        put_tensors(content, "held", {"mark": mark(living)})
        if warming:
            put_tensors(content, "start", self._at.start)
        trained = orders.trained_in(self._config, server_round, living.experts)
        self._train_template(content, trained).put(content)
        return self._messages(self._rollcall.trainers(server_round), "train", content, server_round)

    def _train_template(self, content: RecordDict, trained: list[str]) -> Template:
        """Return what is summed in a training round; the lifecycle adds its orders and its sums."""
        if self._structure is None:
            return self._scales.template(self.bank, trained)
        parent = self._structure.lifecycle.call().parent
        template = self._scales.template(self.bank, trained, parent)
        shapes = {name: template.shapes[f"delta/{name}"] for name in trained}
        template.shapes.update(self._structure.train(content, shapes))
        return template

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the experts along the sum of the silos' weighted changes."""
        sums = accepted(replies)
        moved = self.bank if sums is None else self._moved(server_round, sums)
        if self._structure is not None:
            moved = self._structure.trained(self.bank, moved, sums)
        self.crowds.trained(self.bank, moved)
        self._at.bank = moved
        return None, None

    def _moved(self, round_: int, sums: Mapping[str, Tensor]) -> Bank:
        """Return the bank as the silos' sums move it."""
        total = Update.from_arrays(sums) if self._method.shared else orders.unmoved(sums)
        self._recorder.trained(total)
        if not self._method.shared:
            return self.bank
        self._scales.learn(total, self.bank)
        self._recorder.counted(round_, self.bank.slots, self.crowds.counted[self.bank.slots])
        silos = len(self._consortium.nodes)
        return self.bank.with_living(self._server.step(self.bank.living(), total, silos=silos))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the bank to all silos when scores are due, else to the next round's sample."""
        due = orders.evaluation_due(self._config, server_round)
        content = RecordDict()
        if self._method.shared:
            self._at.sent = self.bank.living()
            put_bank(content, self._at.sent)
        following = self._rollcall.following(server_round + 1)
        order = orders.to_assess(self._config, self._rows, server_round, following)
        put_facts(content, "order", order)
        shapes = assessment_shapes(len(self.bank.slots))
        if self._structure is not None:
            shapes |= self._structure.assess(content, self.bank)
        if due:
            shapes |= evaluation_shapes(self._rows.numbers)
        Template(shapes).put(content)
        asked = self._consortium.names if due else following
        return self._messages(asked, "evaluate", content, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take the bank's prior from the summed mass, and the scores to the journal."""
        sums = accepted(replies)
        if sums is None:
            return None
        total = Assessment.from_arrays(sums)
        self.crowds.assessed(total.contributors, self.bank)
        concentration = self._config.em.prior_concentration
        living = assess_step(self.bank.living(), total, concentration=concentration)
        self._at.bank = self.bank.with_living(living)
        if self._structure is not None and server_round < self._config.rounds.num_server_rounds:
            silos = len(self._consortium.nodes)  # after the last round no change is to come
            self._at.bank = self._structure.assessed(self.bank, sums, silos)
        self._recorder.assessed(total, sums, self._rows)
        return None

    def summary(self) -> None:
        """Nothing to say: the journal holds the settings."""

    @property
    def _consortium(self) -> Consortium:
        return self._membership.present

    def _meet(self, grid: Grid, round_: int) -> None:
        """Look who has come or gone since the last time; wait where too few are left."""
        self._vetting.patiently(lambda: self._rollcall.look(grid, round_))

    def _exchange(self, grid: Grid, phase: str, round_: int) -> None:
        """Run one phase of a round by Flower's own four methods."""
        training = self.configure_train, self.aggregate_train
        assessing = self.configure_evaluate, self.aggregate_evaluate
        configure, aggregate = training if phase == "train" else assessing

        def messages() -> Iterable[Message]:
            return configure(round_, ArrayRecord(), ConfigRecord(), grid)

        aggregate(round_, self._asked(grid, phase, round_, messages))

    def _asked(
        self, grid: Grid, phase: str, round_: int, messages: Callable[[], Iterable[Message]]
    ) -> list[Message]:
        return self._vetting.asked(grid, phase, round_, messages, lambda: self._meet(grid, round_))

    def _find_start(self, grid: Grid) -> None:
        """Cluster the silos' gradient sketches, all silos in every exchange."""

        def exchange(query: str, content: RecordDict) -> Mapping[str, Tensor]:
            def messages() -> list[Message]:
                return self._messages(self._consortium.names, f"query.{query}", content, 0)

            sums = accepted(self._asked(grid, query, 0, messages))
            if sums is None:
                raise RunError(f"no start: the sum of phase {query} is void; run again")
            return sums

        self._at.start, members = clusters_of(exchange, self._config)
        self.crowds.began(members, self.bank)

    def _messages(
        self, silos: Iterable[str], kind: str, content: RecordDict, round_: int
    ) -> list[Message]:
        ttl = float(self._config.rounds.phase_timeout)
        return self._consortium.messages(silos, kind, content, round_=round_, ttl=ttl)
