"""`fedvemoe run`: one simulation on a SuperLink of its own, with a true exit code.

``flwr run`` alone starts a SuperLink that stays, takes ClientApp code from wherever that was first
started, and exits with 0 when the run has failed. Here the SuperLink lives in a folder that is
thrown away, uses this environment, and its word on how the run ended is asked for and passed on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedvemoe_app.flower.programs.processes import (
    all_ended,
    environment_of,
    free_port,
    healthy,
    raise_unless_completed,
    running,
    staged,
    toml,
    unwinding,
    wait_for,
)

CONNECTION = "simulation"
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
    with unwinding(), tempfile.TemporaryDirectory(prefix="fedvemoe-") as folder:
        home = Path(folder)
        app = staged(home / "fedvemoe")
        (home / "settings.toml").write_text(toml(settings), encoding="utf-8")
        with _superlink(home, log) as environment, log.open("a") as output:
            command = [
                *("flwr", "run", str(app), CONNECTION, "--stream"),
                *("--run-config", str(home / "settings.toml")),
                *("--federation-config", _federation(resources)),
            ]
            with running(command, environment, home, output) as streaming:
                watch(lambda: streaming.poll() is None)
                streaming.wait()
            raise_unless_completed(CONNECTION, environment, home, log)


@contextmanager
def _superlink(home: Path, log: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink on a free port; yield the environment in which flwr finds it."""
    port = free_port()
    environment = {
        **environment_of(str(home), home / "flwr"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    (home / "flwr").mkdir()
    connection = f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "flwr" / "config.toml").write_text(connection, encoding="utf-8")
    command = [
        *("flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1"),
        *("--port", str(port), "--disable-runtime-dependency-installation"),
    ]
    with (
        all_ended(str(home)),
        log.open("a") as output,
        running(command, environment, home, output) as superlink,
    ):
        wait_for(lambda: healthy(f"127.0.0.1:{port}"), superlink, "SuperLink", log)
        yield environment


def _federation(resources: Resources) -> str:
    cpus = max(os.cpu_count() or 1, resources.cpus_per_silo)
    return (
        f"num-supernodes={resources.silos} "
        f"client-resources-num-cpus={resources.cpus_per_silo} "
        f"client-resources-num-gpus={float(resources.gpus_per_silo)} "
        f"init-args-num-cpus={cpus}"
    )
