"""What a silo measures the federation by: its own perplexity when it trains alone."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.silo import Silo


def local_reference(silo: Silo, context: Context, alone: Score | None = None) -> float | None:
    """Return this silo's perplexity to beat, or None where it knows none.

    In a simulation it reads the run's ``local-baseline-json`` itself. A deployed silo does not:
    the path is the server's, and so would be the figures. Without a file it is that of its own
    expert ``alone``, where it has one.

    Raises
    ------
    DataError
        Where the file cannot be read, or lacks this silo.
    """
    path = silo.config.evaluation.local_baseline_json
    if not path or not simulated(context):
        return alone.ppl if alone else None
    return read_baselines(Path(path), [silo.name]).references()[silo.name]
