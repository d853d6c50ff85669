"""The server says how long a run will take, from the seconds of its first exchanges."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.sums.one_reply import Tally
from fedvemoe_app.report.journal import Journal
from fedvemoe_app.report.progress import Tail

FIRST = "roughly 2 h 10 min for 10 rounds, judging by the first assessment"
BETTER = "about 15 min 00 s for 9 rounds, judging by round 1"


@pytest.mark.parametrize(("speed", "shown"), [(1.0, [FIRST, BETTER]), (0.01, [])])
def test_long_runs_are_announced_and_short_ones_only_logged(
    speed: float, shown: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig()
    recorder = Recorder(Journal.create(tmp_path, "one", config.to_flat(), {}), config, local={})
    bank = Bank.start({"x.B": torch.zeros(4, 1)}, alive=2)
    with caplog.at_level(logging.INFO, logger="flwr"):
        for round_, exchanges in enumerate([{"assess": 390.0}, {"train": 60.0, "assess": 40.0}]):
            for phase, seconds in exchanges.items():
                recorder.exchanged(phase, round_, Tally(seconds=speed * seconds))
            recorder.round_done(round_, bank)
    events = Tail(tmp_path / "one" / "progress.jsonl").read()
    assert [event["text"] for event in events if event["event"] == "message"] == shown
    assert sum("judging by" in message for message in caplog.messages) == 2
