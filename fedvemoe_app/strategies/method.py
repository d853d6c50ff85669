"""What makes one federated algorithm differ from another, as data.

All of them run in the same loop (``flower.server.strategy``) on the same batches, and are evaluated
alike. A method chooses the silo's responsibility rule, its local objective, what stays at the
silo, and the server's rule; the rest is shared, so that a comparison compares nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.responsibilities import Rule
from fedvemoe_app.em.round import train_step
from fedvemoe_app.em.state import Bank
from fedvemoe_app.em.statistics import Update

Personal = Literal["none", "local", "tuned", "ditto"]


class ServerRule(Protocol):
    """How the server moves the experts."""

    def step(self, bank: Bank, total: Update, *, silos: int) -> Bank:
        """Return the bank of living experts after the ``total`` of a round.

        ``silos`` is how many take part in the run, whether or not they answered.
        """


@runtime_checkable
class Remembering(ServerRule, Protocol):
    """A rule that keeps moments from round to round: a run that goes on must have them."""

    def arrays(self) -> dict[str, Tensor]:
        """Return the moments it keeps."""

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Go on from the moments that ``arrays`` returned."""


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """``theta_k += eta sum_i w_ik delta_ik / (n0 + sum_i w_ik)``: see ``em.round.train_step``."""

    learning_rate: float
    shrinkage: float

    def step(self, bank: Bank, total: Update, *, silos: int) -> Bank:
        """Return the bank after the step."""
        return train_step(
            bank,
            total,
            silos=silos,
            learning_rate=self.learning_rate,
            shrinkage=self.shrinkage,
        )


def weighted_mean(config: RunConfig) -> Callable[[], ServerRule]:
    """Return what makes the plain server rule of a run."""
    rounds = config.rounds
    return lambda: WeightedMean(rounds.server_learning_rate, rounds.shrinkage)


@dataclass(frozen=True, slots=True)
class Method:
    """One federated algorithm.

    Parameters
    ----------
    server
        Makes the server's rule, anew for each run.
    one_expert
        Whether all silos share one adapter; the bank then has one slot and needs no start.
    rule
        The E-step; None is the run's ``responsibility-rule``.
    posterior
        Whether each token or each example draws its expert in local training.
    told_apart
        Whether equal experts must be told apart by a start, because the rule cannot.
    proximal
        Pull of a shared expert to its start of the round.
    shared
        Whether silos send changes of the bank's experts; else nothing but metrics is summed.
    personal
        The silo's own expert: trained on its data alone, its copy of its main expert after local
        training, or Ditto's.
    attraction
        Pull of the silo's own expert to the bank's.
    predict
        Whether a silo predicts with the mixture (its own expert in it, if it has one) or with
        its own expert alone.
    lifecycle
        Whether experts may be born, pruned and merged.
    reads
        Settings that not all methods read, by key.

    """

    name: str
    server: Callable[[], ServerRule]
    one_expert: bool = False
    rule: Rule | None = None
    posterior: Literal["token", "sequence"] = "token"
    told_apart: bool = False
    proximal: float = 0.0
    shared: bool = True
    personal: Personal = "none"
    attraction: float = 0.0
    predict: Literal["mixture", "personal"] = "mixture"
    lifecycle: bool = False
    reads: tuple[str, ...] = ("server-learning-rate",)
