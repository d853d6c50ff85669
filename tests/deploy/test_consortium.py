"""A real consortium on loopback: it ends like the run in this process, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fedvemoe_app.deploy.site import Site
from fedvemoe_app.flower.programs.processes import started_by
from fedvemoe_app.report.journal import read_run
from tests.deploy.on_site import deployed
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.started import started
from tests.worker.living import workers

CHOSEN: Settings = {
    "start": "none",
    "num-server-rounds": 1,
    "privacy": "secagg",
    "phase-timeout": 600,
    "reporting": "full",
}
PLACES = f"fedvemoe-{os.getuid()}"
"""What the paths of all workers of this user have in common."""
OWN = ("log-dir", "run-name")
PATIENCE = 1800
"""Seconds: on a machine that is busy with other things an exchange takes a minute."""

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The consortium's folder; what its programs have left behind is ended after the test."""
    yield tmp_path / "consortium"
    for process in started_by(str(tmp_path / "consortium")):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def start(settings: Settings, place: Path) -> subprocess.Popen[str]:
    words = [f"{key}={value}" for key, value in settings.items() if key not in OWN]
    return started(
        *("consortium", "--silos", str(SILOS), "--folder", place, *words), folder=place.parent
    )


def living(place: Path, seconds: float = 15.0) -> list[str]:
    """Return the programs of a consortium that have not gone within ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := started_by(str(place))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [" ".join(process.cmdline()[:3]) for process in left]


def wait_for_progress(place: Path, what: str, process: subprocess.Popen[str]) -> None:
    file = place / "run" / "progress.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() and what in file.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_consortium_ends_like_the_run_in_this_process(
    settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN}, place)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert living(place) == []
    real = read_run(place / "run")
    assert real.events == []
    site = Site(place, tuple(f"silo-{index:02d}" for index in range(SILOS)))
    same = {**real.config, "run-name": "here", "log-dir": str(place.parent), "c-min": 0}
    here = federate(same, prepare=deployed(site))
    assert without_seconds(real) == without_seconds(here)
    assert (real.tasks, real.clients) == (here.tasks, here.clients)
    served = [site.log(silo).read_text().count(" serves ") for silo in site.silos]
    assert served == [1] * SILOS  # one worker a silo answered all messages
    assert "4 SuperNodes are online" in said
    address = said.split("https://")[1].split()[0].rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((address[0], int(address[2]))) != 0


def kill_silo(place: Path, silo: str) -> None:
    """Kill a silo's SuperNode and whatever it has started, as a power cut does."""
    home = str(place / "nodes" / silo)
    for child in started_by(str(place)):
        with suppress(psutil.NoSuchProcess):
            if child.environ().get("FLWR_HOME") == home:
                child.kill()


@pytest.mark.parametrize("phase", ["assess", "train"])
def test_a_supernode_that_is_killed_costs_its_part_and_not_the_run(
    phase: str, settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN}, place)
    wait_for_progress(place, f'"phase": "{phase}"', process)
    kill_silo(place, "silo-02")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    run = read_run(place / "run")
    lost = [row["numbers"]["silo"] for row in run.events if row["event"] == "dropout"]
    assert set(lost) == {"silo-02"}
    assert [row["round"] for row in run.rounds] == [0, 1]
    assert run.rounds[1]["loss_train"] is not None
    assert sum(run.rounds[1]["mass"] or ()) == pytest.approx(SILOS - 1)
    assert "silo-02" in said
    assert living(place) == []


def test_a_worker_that_is_killed_costs_one_reply_at_most(
    settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN}, place)
    wait_for_progress(place, '"phase": "train"', process)
    home = str(place / "nodes" / "silo-02")
    (worker,) = [one for one in workers(PLACES) if one.environ().get("FLWR_HOME") == home]
    worker.kill()
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    run = read_run(place / "run")
    lost = [row["numbers"]["silo"] for row in run.events if row["event"] == "dropout"]
    assert lost in ([], ["silo-02"])
    assert [row["round"] for row in run.rounds] == [0, 1]
    assert Site(place).log("silo-02").read_text().count(" serves ") == 2
    assert living(place) == []


@pytest.mark.parametrize("phase", ["assess", "train"])
def test_a_supernode_killed_once_it_has_uploaded_costs_a_share_and_not_the_run(
    phase: str, settings: Callable[..., Settings], place: Path
) -> None:
    """Its masks come off with the others' shares: its part is in this sum and in none after."""
    process = start({**settings(), **CHOSEN}, place)
    wait_for_progress(place, f'"phase": "{phase}"', process)
    wait_for_reply(place, "silo-02", phase, process)
    kill_silo(place, "silo-02")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    run = read_run(place / "run")
    lost = {row["numbers"]["silo"] for row in run.events if row["event"] == "dropout"}
    assert lost == {"silo-02"}
    assert [row["round"] for row in run.rounds] == [0, 1]
    assert sum(run.rounds[1]["mass"] or ()) == pytest.approx(SILOS - 1)
    assert living(place) == []


def wait_for_reply(place: Path, silo: str, phase: str, process: subprocess.Popen[str]) -> None:
    """Wait until a silo's own upload of the phase has come in."""
    deadline = time.monotonic() + PATIENCE
    while True:
        text = (place / "run" / "progress.jsonl").read_text()
        _, _, since = text.partition(f'"phase": "{phase}"')
        lines = [line for line in since.splitlines() if f'"{silo}"' in line]
        setup = 2 if phase == "assess" else 0  # the first sum's keys and shares are replies, too
        if len(lines) > setup:
            return
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, phase
        time.sleep(0.1)


def test_a_superlink_that_is_killed_fails_the_run_in_words_and_keeps_its_rows(
    settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN}, place)
    wait_for_progress(place, '"phase": "train"', process)
    for child in started_by(str(place)):
        with suppress(psutil.NoSuchProcess):
            if "flower-superlink" in " ".join(child.cmdline()[:2]):
                child.kill()
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert said.count("error:") == 1
    assert "last lines of" in said
    assert "Traceback" not in said.partition("last lines of")[0]
    assert [row["round"] for row in read_run(place / "run").rounds] == [0]
    assert living(place) == []


def test_an_interrupted_consortium_takes_everything_down(
    settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN}, place)
    wait_for_progress(place, '"phase": "hello"', process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert living(place) == []


def test_a_run_that_fails_fails_the_command_with_its_log(
    settings: Callable[..., Settings], place: Path
) -> None:
    process = start({**settings(), **CHOSEN, "phase-timeout": 5, "min-silos": 5}, place)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert said.count("error:") == 1
    assert "4 silos connected within 5 s" in said
    assert f"last lines of {place}" in said
    assert living(place) == []
