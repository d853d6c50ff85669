"""The command as a user gives it: a real SuperLink, real silos on Ray, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fedvemoe_app.flower.programs.manifest import toml_value
from fedvemoe_app.report.journal import read_run
from tests.federation import SILOS, Settings, federate, without_seconds
from tests.flower.cut import SHORT, same_run
from tests.started import FEDVEMOE, started

ROOT = Path(__file__).parents[2]
MARK = "FEDVEMOE_TEST_RUN"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """Mark all processes of a test by their environment; end those that are left after it."""
    yield str(tmp_path)
    for process in marked(str(tmp_path)):
        process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that descend from a command started under ``mark``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def left_behind(mark: str, seconds: float = 15.0) -> list[str]:
    """Return the processes that have not gone within ``seconds``."""
    deadline = time.monotonic() + seconds
    while (living := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [" ".join(process.cmdline()[:3]) for process in living]


def start(settings: Settings, mark: str) -> subprocess.Popen[str]:
    words = [f"{key}={value}" for key, value in settings.items()]
    return started("run", "--silos", str(SILOS), *words, folder=Path(mark), **{MARK: mark})


def test_a_run_on_ray_equals_the_run_in_this_process(
    settings: Callable[..., Settings], mark: str
) -> None:
    chosen = {**settings(run_name="ray", privacy="secagg"), "num-server-rounds": 1}
    process = start(chosen, mark)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert left_behind(mark) == []
    ray = read_run(Path(mark) / "ray")
    here = federate({**chosen, "run-name": "here"})
    assert without_seconds(ray) == without_seconds(here)
    assert (ray.tasks, ray.clients) == (here.tasks, here.clients)
    assert "round 1/1" in said
    assert len(list((ray.folder / "plots").glob("*.png"))) == 4
    assert (ray.folder / "flower.log").is_file()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something has happened in a run that is still going on."""
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def progress_of(mark: str, run: str) -> str:
    file = Path(mark) / run / "progress.jsonl"
    return file.read_text() if file.exists() else ""


def failed_with_one_reason(process: subprocess.Popen[str], *named: str) -> None:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    for name in named:
        assert name in said


@pytest.mark.slow
def test_when_every_silo_fails_the_command_fails_with_their_reasons(
    settings: Callable[..., Settings], small_bank: Path, mark: str
) -> None:
    bank = Path(shutil.copytree(small_bank, Path(mark) / "bank"))
    process = start({**settings(run_name="lost"), "dataset-name": str(bank)}, mark)
    wait_for(lambda: "hello" in progress_of(mark, "lost"), process)
    shutil.rmtree(bank)  # the server has read it, no silo has
    failed_with_one_reason(process, "phase hello: 0 silos answered", "node ", str(bank))
    assert left_behind(mark) == []


@pytest.mark.slow
def test_when_the_server_fails_the_command_fails_with_its_reason(
    settings: Callable[..., Settings], small_base: Path, mark: str
) -> None:
    base = Path(shutil.copytree(small_base, Path(mark) / "base"))
    process = start({**settings(run_name="broken"), "model-name": str(base)}, mark)
    wait_for((Path(mark) / "broken.log").exists, process)
    (base / "config.json").unlink()  # the command has seen it, the server has not
    failed_with_one_reason(process, str(base), "config.json", "broken.log")
    assert left_behind(mark) == []


@pytest.mark.slow
def test_a_server_that_was_killed_goes_on_where_it_was(
    settings: Callable[..., Settings], mark: str
) -> None:
    chosen = {**settings(run_name="cut"), **SHORT, "privacy": "secagg", "private-slot": "local"}
    chosen["phase-timeout"] = 300
    process = start(chosen, mark)
    wait_for((Path(mark) / "cut" / "checkpoint" / "round-0001.safetensors").exists, process)
    for server in marked(mark):
        with suppress(psutil.Error):
            if "flwr-simulation" in " ".join(server.cmdline()[:3]):
                server.kill()
    failed_with_one_reason(process, "go on from there with: fedvemoe resume")
    said = called("resume", str(Path(mark) / "cut"), mark=mark)
    assert "going on after round" in said
    assert left_behind(mark) == []
    one = read_run(Path(mark) / "cut")
    same_run(one, federate({**chosen, "run-name": "whole"}))
    assert (one.folder / "flower.log").is_file()
    assert [entry["round"] for entry in one.manifest["resumed"]] in ([1], [2])
    with pytest.raises(AssertionError, match="is finished: 3 rounds are complete"):
        called("resume", str(Path(mark) / "cut"), mark=mark)


def called(*words: str, mark: str) -> str:
    """Return what a command says that ends well."""
    done = subprocess.run(
        [FEDVEMOE, *words],
        cwd=mark,
        env={**os.environ, MARK: mark, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_command_takes_everything_down(
    name: str, settings: Callable[..., Settings], mark: str
) -> None:
    process = start(settings(run_name="cut", num_server_rounds=500), mark)
    wait_for(lambda: '"round": 1' in progress_of(mark, "cut"), process)
    process.send_signal(signal.Signals[name])
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert "interrupted" in said
    assert f"fedvemoe resume {Path(mark) / 'cut'}" in said
    assert left_behind(mark) == []
    assert read_run(Path(mark) / "cut").rounds[0]["round"] == 0


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_flowers_own_command_works_without_a_network(
    settings: Callable[..., Settings], mark: str
) -> None:
    app = Path(mark) / "fedvemoe"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedvemoe_app", app / "fedvemoe_app", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", app)
    chosen = {**settings(run_name="bare"), "num-server-rounds": 1}
    lines = [f"{key} = {toml_value(value)}\n" for key, value in chosen.items()]
    (Path(mark) / "settings.toml").write_text("".join(lines))
    nowhere = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        MARK: mark,
        "PATH": f"{FEDVEMOE.parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(Path(mark) / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "UV_CACHE_DIR": str(Path(mark) / "uv"),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere),
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), nowhere),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    }
    silos = f"num-supernodes={SILOS} client-resources-num-cpus=1 init-args-num-cpus=2"
    command = [
        *(FEDVEMOE.with_name("flwr"), "run", ".", "--stream"),
        *("--run-config", str(Path(mark) / "settings.toml"), "--federation-config", silos),
    ]
    done = subprocess.run(
        command, cwd=app, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(mark) / "bare").is_dir(), done.stdout + done.stderr
    assert progress_of(mark, "bare").splitlines()[-1].startswith('{"event": "finished"')
    here = federate({**chosen, "run-name": "here"})
    assert without_seconds(read_run(Path(mark) / "bare")) == without_seconds(here)
    assert (app / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()
