"""`fedvemoe run`: one simulation on a SuperLink of its own, with a true exit code.

``flwr run`` alone starts a SuperLink that stays, takes ClientApp code from wherever that was first
started, and exits with 0 when the run has failed. Here the SuperLink lives in a folder that is
thrown away, uses this environment, and its word on how the run ended is asked for and passed on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import fedvemoe_app
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.manifest import app_manifest, toml_value

CONNECTION = "simulation"
STARTUP_SECONDS = 60
Settings = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Resources:
    """Silos of a simulation and what each may use; whole CPUs only, GPUs in parts."""

    silos: int
    cpus_per_silo: int = 1
    gpus_per_silo: float = 0.0


def simulate(
    settings: Settings, resources: Resources, log: Path, watch: Callable[[Callable[[], bool]], None]
) -> None:
    """Run the app with ``settings`` to its end; RunError with the reason where it fails.

    Parameters
    ----------
    log
        File for everything Flower, the server and the silos print.
    watch
        Called once the run is under way, with a function that says whether it still is; shows
        progress and returns when it is over.

    """
    with _unwinding(), tempfile.TemporaryDirectory(prefix="fedvemoe-") as folder:
        home = Path(folder)
        app = _staged(home / "fedvemoe")
        (home / "settings.toml").write_text(_toml(settings), encoding="utf-8")
        with _superlink(home, log) as environment, log.open("a") as output:
            command = [
                *("flwr", "run", str(app), CONNECTION, "--stream"),
                *("--run-config", str(home / "settings.toml")),
                *("--federation-config", _federation(resources)),
            ]
            with _process(command, environment, home, output) as streaming:
                watch(lambda: streaming.poll() is None)
                streaming.wait()
            _raise_unless_completed(environment, home, log)


def _staged(app: Path) -> Path:
    """Lay out the installed package as a Flower app, so that no checkout is needed to run it."""
    source = Path(fedvemoe_app.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, app / source.name, ignore=ignored)
    (app / "pyproject.toml").write_text(app_manifest(), encoding="utf-8")
    return app


@contextmanager
def _superlink(home: Path, log: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink on a free port; yield the environment in which flwr finds it."""
    port = _free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    (home / "flwr").mkdir()
    connection = f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "flwr" / "config.toml").write_text(connection, encoding="utf-8")
    command = [
        *("flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1"),
        *("--port", str(port), "--disable-runtime-dependency-installation"),
    ]
    try:
        with log.open("a") as output, _process(command, environment, home, output) as superlink:
            _wait_until_healthy(superlink, port, log)
            yield environment
    finally:
        _end_all(environment["FLWR_HOME"])


@contextmanager
def _process(
    command: list[str], environment: Mapping[str, str], folder: Path, output: object
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


def _end_all(flwr_home: str) -> None:
    """End what Flower and Ray started: it leaves the process group, but keeps the environment."""
    ours = [process for process in psutil.process_iter() if _home_of(process) == flwr_home]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(ours, timeout=3)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _home_of(process: psutil.Process) -> str | None:
    try:
        home: str | None = process.environ().get("FLWR_HOME")
    except (psutil.Error, OSError):
        return None
    return home


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, with all that was started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(superlink: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and superlink.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RunError(f"SuperLink did not start within {STARTUP_SECONDS} s; its log is {log}")


def _raise_unless_completed(environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Ask SuperLink how the run ended: the exit code of ``flwr run`` does not say."""
    command = ["flwr", "list", CONNECTION, "--format", "json"]
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


def _federation(resources: Resources) -> str:
    cpus = max(os.cpu_count() or 1, resources.cpus_per_silo)
    return (
        f"num-supernodes={resources.silos} "
        f"client-resources-num-cpus={resources.cpus_per_silo} "
        f"client-resources-num-gpus={float(resources.gpus_per_silo)} "
        f"init-args-num-cpus={cpus}"
    )


def _toml(settings: Settings) -> str:
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in settings.items())
