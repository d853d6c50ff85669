"""Journals of made-up runs: silos learn, each category settles on one expert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedvemoe_app.report.journal import Journal, Run, read_run
from fedvemoe_app.report.rows import ClientRow, EventRow, RoundRow, TaskRow
from fedvemoe_app.seeds import stream

CATEGORIES = ("translation", "reasoning", "code", "rewriting", "dialogue")


def make_run(
    folder: Path,
    silos: int = 5,
    rounds: int = 4,
    slots: int = 6,
    *,
    full: bool = True,
    baseline: bool = True,
    name: str = "run",
    counted: bool = False,
    lifecycle: bool = False,
    strategy: str = "fedvemoe",
    seed: int = 1,
    gain: float = 0.0,
    settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Run:
    """Write and read back the journal of ``rounds`` training rounds after row 0.

    ``counted`` adds counts of silos by bucket; ``lifecycle`` has experts born, tried, merged and
    pruned; ``gain`` lowers every silo's log perplexity by as many nats, and ``seed`` shifts it.
    """
    config = {"seed": seed, "strategy": strategy, **(settings or {})}
    journal = Journal.create(folder, name, config, {"silos": silos, **(facts or {})})
    used = min(slots, len(CATEGORIES))
    for number in range(rounds + 1):
        rows = [_client(number, rounds, silo, slots, used, baseline) for silo in range(silos)]
        for row in rows:
            row["ppl"] = (row["ppl"] or 1.0) * math.exp(0.01 * seed - gain)
        made = _round(number, rows, slots, strategy)
        if counted:
            made |= _counts(rows)
        if lifecycle:
            _live(made, number, rounds)
        journal.tasks([_task(row) for row in rows])
        journal.round(made)
        if full:
            journal.clients(rows)
    for event in _events(rounds) if lifecycle else []:
        journal.event(event)
    journal.summary()
    return read_run(journal.folder)


def _task(row: ClientRow) -> TaskRow:
    return TaskRow(
        round=row["round"],
        task=row["tasks"][0],
        category=row["category"],
        ppl=row["ppl"],
        rouge_l=row["rouge_l"],
        exact_match=row["exact_match"],
        tokens=100,
        examples=10,
    )


def _counts(rows: list[ClientRow]) -> RoundRow:
    """Count silos by bucket, as aggregate reporting does."""
    ppl, transfer = np.zeros(60), np.zeros(60)
    for row in rows:
        ppl[int(math.log(row["ppl"] or 1.0) / 0.15)] += 1
        if row["negative_transfer"] is not None:
            transfer[30 + math.floor(row["negative_transfer"] / 0.15)] += 1
    counts = {"ppl_histogram": ppl.tolist(), "transfer_histogram": transfer.tolist()}
    return cast(RoundRow, counts)


def _live(row: RoundRow, number: int, rounds: int) -> None:
    """Let slot 3 be born after a third of the rounds, and slot 1 end after two thirds."""
    born, ended = rounds // 3, 2 * rounds // 3
    alive = np.array([k < 5 and (k != 3 or number >= born) for k in range(len(row["mass"] or ()))])
    alive[1] &= number < ended
    for field in ("mass", "prior"):
        values = np.where(alive, row[field], 0.0)  # type: ignore[literal-required]
        row[field] = values.tolist()  # type: ignore[literal-required]


def _events(rounds: int) -> list[EventRow]:
    told = [
        (rounds // 3, "birth", [3], "tokens that no expert explains"),
        (rounds // 3 + 1, "accept", [3], "it lowers the loss on probes"),
        (rounds // 2, "close", [5], "a trial that brought nothing"),
        (2 * rounds // 3, "merge", [0, 1], "their functions agree"),
        (2 * rounds // 3, "prune", [1], "no silo would miss it"),
        (rounds, "full", [], "every slot is taken: raise k-max"),
        (rounds, "sketched", [2], "a kind of event that is not known yet"),
        (1, "dropout", [], "no answer within 60 s"),
    ]
    rows = [(min(number, rounds), *rest) for number, *rest in told]
    return [
        EventRow(round=number, event=kind, slots=slots, why=why, numbers={"silo": "silo-00"})
        for number, kind, slots, why in rows
    ]


def _client(
    number: int, rounds: int, silo: int, slots: int, used: int, baseline: bool
) -> ClientRow:
    category = silo % len(CATEGORIES)
    noise = stream(7, "silo", silo, number).random(slots)
    sharp = 6.0 * number / max(1, rounds)
    logits = sharp * (np.arange(slots) == category % used) + 0.5 * noise
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    start = 3.4 + 0.8 * math.sin(silo)
    ppl = math.exp(0.6 + (start - 0.6) * 0.75**number + 0.05 * float(noise[0]))
    return ClientRow(
        round=number,
        client=f"silo-{silo:02d}",
        tasks=[f"task{silo:03d}_{CATEGORIES[category]}"],
        category=CATEGORIES[category],
        ppl=ppl,
        rouge_l=min(100.0, 10.0 + 12 * number),
        exact_match=min(100.0, 5.0 * number),
        responsibilities=weights.tolist(),
        active=np.argsort(-weights)[:2].tolist(),
        negative_transfer=0.3 * math.sin(3 * silo) - 0.15 if baseline else None,
        domain=CATEGORIES[category],
    )


def _round(number: int, rows: list[ClientRow], slots: int, strategy: str) -> RoundRow:
    mass = np.sum([row["responsibilities"] for row in rows], axis=0)
    ppl = [row["ppl"] or 1.0 for row in rows]
    harmed = [row["negative_transfer"] > 0 for row in rows if row["negative_transfer"] is not None]
    return RoundRow(
        round=number,
        strategy=strategy,
        k_active=int((mass > 0.01).sum()),
        mass=mass.tolist(),
        prior=(mass / mass.sum()).tolist(),
        loss_train=math.log(np.mean(ppl)) if number else None,
        ppl=float(np.exp(np.mean(np.log(ppl)))),
        ppl_worst=max(ppl),
        rouge_l=10.0 + number,
        exact_match=5.0 * number,
        negative_transfer_share=sum(harmed) / len(harmed) if harmed else None,
        bytes_up=1000 * number,
        bytes_down=2000 * number,
        seconds={"probe": 1.5, "train": 2.5},
    )
