"""A run that was cut goes on from its last complete round, and ends as if it never had been."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.federation import Settings, federate
from tests.flower.cut import SHORT, cut_in, interrupted, resumed, same_run

RUNS: dict[str, Settings] = {
    "under masks": {"privacy": "secagg", "private-slot": "local"},
    "in the clear": {"privacy": "none", "fraction-train": 0.5, "private-slot": "local"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on(name: str, settings: Callable[..., Settings]) -> None:
    chosen = {**SHORT, **RUNS[name]}
    whole = federate({**settings(), **chosen})
    cut = {**settings(), **chosen}
    same_run(resumed(cut, interrupted(cut, cut_in("evaluate", 2))), whole)
