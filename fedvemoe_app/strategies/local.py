"""No federation: each silo trains an expert on its own data alone. What all others must beat.

Evaluated after the last step; the version that was best on the silo's probe at the end of a
round (or before the first) is evaluated as well: the early-stopped baseline.
"""

from __future__ import annotations

from fedvemoe_app.config import RunConfig
from fedvemoe_app.strategies.method import Method, weighted_mean


def method(config: RunConfig) -> Method:
    """Return the method of this run."""
    return Method(
        "local",
        weighted_mean(config),  # which is never asked
        one_expert=True,
        shared=False,
        personal="local",
        reads=("total-steps", "out-json"),
    )
