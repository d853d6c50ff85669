"""Flower's own programs as child processes: started in this environment, and all of them ended.

A Flower program starts others, which leave its process group. What is started here therefore
carries a mark in its environment, and whatever carries it is ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import fedvemoe_app
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.programs.manifest import app_manifest, toml_value

STARTUP_SECONDS = 60
MARK = "FEDVEMOE_STARTED_BY"
Environment = Mapping[str, str]


def environment_of(mark: str, flwr_home: Path) -> dict[str, str]:
    """Return the environment for Flower's programs: this one's, with a home of their own."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(flwr_home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        MARK: mark,
    }


def staged(app: Path) -> Path:
    """Lay out the installed package as a Flower app, so that no checkout is needed to run it."""
    source = Path(fedvemoe_app.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, app / source.name, ignore=ignored)
    (app / "pyproject.toml").write_text(app_manifest(), encoding="utf-8")
    return app


def toml(settings: Mapping[str, bool | int | float | str]) -> str:
    """Return settings as a TOML file for ``flwr run``."""
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in settings.items())


@contextmanager
def running(
    command: list[str], environment: Environment, folder: Path, output: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as the head of its own process group, and end the whole group."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(process, signal_)


def _signal_group(process: subprocess.Popen[bytes], signal_: signal.Signals) -> None:
    try:
        os.killpg(process.pid, signal_)
        process.wait(timeout=10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return


@contextmanager
def all_ended(mark: str) -> Iterator[None]:
    """End on leaving what Flower and Ray started: it leaves the process group, not the mark."""
    try:
        yield
    finally:
        ours = started_by(mark)
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(ours, timeout=3)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def started_by(mark: str) -> list[psutil.Process]:
    """Return the processes that carry a mark."""
    return [process for process in psutil.process_iter() if _mark_of(process) == mark]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
    return mark


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, with all that was started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str, log: Path
) -> None:
    """Wait until ``ready``; RunError where the process ends before, or time runs out."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    raise RunError(f"{what} did not start within {STARTUP_SECONDS} s; its log is {log}")


def healthy(address: str, ca: Path | None = None) -> bool:
    """Say whether a SuperLink answers at an address, over TLS where a CA is given."""
    scheme, context = "http", None
    if ca:
        scheme, context = "https", ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(f"{scheme}://{address}/health", timeout=1, context=context):
            return True
    except (urllib.error.URLError, OSError):
        return False


def raise_unless_completed(
    connection: str, environment: Environment, folder: Path, log: Path
) -> None:
    """Ask SuperLink how the run ended: the exit code of ``flwr run`` does not say."""
    command = ["flwr", "list", connection, "--format", "json"]
    listed = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    try:
        runs = json.loads(listed.stdout)["runs"]
    except (ValueError, KeyError) as error:
        raise RunError(f"SuperLink could not be asked how the run ended; see {log}") from error
    status = runs[0]["status"] if runs else "was not accepted by SuperLink"
    if status != "finished:completed":
        raise RunError(f"the run {status}; see {log}")
