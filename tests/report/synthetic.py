"""Journals of made-up runs: silos learn, each category settles on one expert."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fedvemoe_app.report.journal import Journal, Run, read_run
from fedvemoe_app.report.rows import ClientRow, RoundRow
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
) -> Run:
    """Write and read back the journal of ``rounds`` training rounds after row 0."""
    journal = Journal.create(folder, name, {"seed": 1}, {"silos": silos})
    used = min(slots, len(CATEGORIES))
    for number in range(rounds + 1):
        rows = [_client(number, rounds, silo, slots, used, baseline) for silo in range(silos)]
        journal.round(_round(number, rows, slots))
        if full:
            journal.clients(rows)
    journal.summary()
    return read_run(journal.folder)


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


def _round(number: int, rows: list[ClientRow], slots: int) -> RoundRow:
    mass = np.sum([row["responsibilities"] for row in rows], axis=0)
    ppl = [row["ppl"] or 1.0 for row in rows]
    harmed = [row["negative_transfer"] > 0 for row in rows if row["negative_transfer"] is not None]
    return RoundRow(
        round=number,
        strategy="fedvemoe",
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
