"""The rows of a run's journal: one JSON object a line, one type per file.

Metrics are None in a round without evaluation, ``negative_transfer`` where no local baseline is
known. ``ppl`` is exp(nats per token), ``rouge_l`` and ``exact_match`` are in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class RoundRow(TypedDict):
    """One line of ``rounds.jsonl``; round 0 is the evaluation before training."""

    round: int
    strategy: str
    k_active: int
    mass: Sequence[float] | None  # [K_max], tokens or silos explained by each slot
    prior: Sequence[float] | None  # [K_max], sums to 1
    loss_train: float | None  # nats per token
    ppl: float | None
    ppl_worst: float | None
    rouge_l: float | None
    exact_match: float | None
    negative_transfer_share: float | None  # of silos, in [0, 1]
    negative_transfer_mean: NotRequired[float]  # over silos, nats per token
    negative_transfer_mean_positive: NotRequired[float]  # the harm alone, not balanced by gains
    negative_transfer_worst: NotRequired[float]  # a bucket's end where not all silos report
    ppl_histogram: NotRequired[Sequence[int]]  # silos per bucket: evaluation.histogram.edges
    transfer_histogram: NotRequired[Sequence[int]]  # evaluation.histogram.transfer_edges
    bytes_up: int
    bytes_down: int
    seconds: Mapping[str, float]  # wall seconds of each phase; phases do not overlap
    epsilon: NotRequired[float]  # spent from the start, under differential privacy


class TaskRow(TypedDict):
    """One line of ``tasks.jsonl``: one task in one round, or several that few silos hold."""

    round: int
    task: str
    category: str
    ppl: float | None
    rouge_l: float | None
    exact_match: float | None
    tokens: int
    examples: int


class ClientRow(TypedDict):
    """One line of ``clients.jsonl``: one silo in one round (full reporting only)."""

    round: int
    client: str
    tasks: Sequence[str]
    category: str
    ppl: float | None
    rouge_l: float | None
    exact_match: float | None
    responsibilities: Sequence[float] | None  # [K_max], with private they sum to 1
    active: Sequence[int] | None  # [top_m], slots
    negative_transfer: float | None  # nats per token, above 0 is harm
    share: NotRequired[float | None]  # switching probability of the silo's filter, in [0, 1]
    domain: NotRequired[str]  # planted ground truth, where the bank knows it
    private: NotRequired[float]  # weight of the silo's own expert in its predictions
    ppl_alone: NotRequired[float | None]  # of its own expert, early-stopped, where it has one


class EventRow(TypedDict):
    """One line of ``events.jsonl``.

    ``event`` is birth, accept, close, prune, merge, full, join, leave, dropout, void, bad-report
    or below-c-min.
    """

    round: int
    event: str
    slots: Sequence[int]
    why: str
    numbers: Mapping[str, Any]


class Summary(TypedDict):
    """The content of ``summary.json``."""

    run: str
    strategy: str | None
    rounds: int  # of training, row 0 not counted
    first: dict[str, float | None]  # by metric, in the first round that has it
    last: dict[str, float | None]
    best_round: int | None  # of the lowest ppl
    best_ppl: float | None
    wall_seconds: float  # all phases of all rounds
    experts_alive: int | None
    silos: int | None
    epsilon: NotRequired[float]  # spent in all, under differential privacy
    delta: NotRequired[float]
    outside_epsilon: NotRequired[list[str]]  # what left silos without noise
