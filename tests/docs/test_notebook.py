"""The notebook runs from top to bottom on a finished run, and shows what a real one gave."""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from fedvemoe_app.report.journal import Run
from tests.docs.pages import DOCS
from tests.federation import DEFINITION

CELLS: list[dict[str, Any]] = json.loads((DOCS / "walkthrough.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_cells_run_in_order_on_a_finished_run(
    ended_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place, *rest = CODE
    assert "parameters" in place["metadata"]["tags"]
    names: dict[str, Any] = {"RUN": str(ended_run.folder)}
    with mpl.rc_context({"backend": "agg"}):
        for cell in rest:
            exec("".join(cell["source"]), names)
        assert len(plt.get_fignums()) == 1
        plt.close("all")
    shown = capsys.readouterr().out
    for silo in ended_run.last_clients:
        assert f"{silo} 0:" in shown
    assert f"{ended_run.rounds[-1]['ppl']:.2f}" in shown
    assert names["definition"] != DEFINITION  # the notebook asks what the demo's silos know


def test_outputs_are_there_and_tell_nothing_of_the_machine() -> None:
    text = json.dumps(CELLS)
    assert "Traceback" not in text
    assert not any(path in text for path in ("/home/", "/tmp/", "/root/", "site-packages"))
    printing = [cell for cell in CODE if "print(" in "".join(cell["source"])]
    assert all(cell["outputs"] for cell in printing)
    assert "image/png" in text
