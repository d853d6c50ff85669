"""A whole deployment on loopback: SuperLink, SuperNodes, one run to its end, all taken down.

Real programs, TLS, authenticated SuperNodes, masked sums: what differs from hosts apart is the
address, and that all keys were made by one hand.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fedvemoe_app.config import RunConfig
from fedvemoe_app.deploy.keys import CA, CERTIFICATE, KEY
from fedvemoe_app.deploy.site import LOOPBACK, Site, prepare
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.programs.processes import (
    STARTUP_SECONDS,
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
from fedvemoe_app.flower.server.run import lay_out
from fedvemoe_app.report.journal import read_run
from fedvemoe_app.report.live import follow
from fedvemoe_app.report.summary import print_summary

CONNECTION = "deployment"
SERVER = "superlink"
LAST_LINES = 15
Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A consortium whose programs run: SuperLink's process, and each silo's SuperNode."""

    site: Site
    address: str
    environment: Mapping[str, str]
    superlink: Process
    supernodes: Mapping[str, Process]


def hold(config: RunConfig, silos: int, folder: Path, console: Console) -> Path:
    """Make a consortium in ``folder``, run it to the end, end its programs; return the run.

    Raises
    ------
    FedVemoeError
        With one readable reason and, where a program is to blame, the last lines of its log.
    """
    folder = folder.absolute()
    _say(console, f"making keys, and the data of {silos} silos, in {folder}")
    lay_out(config)  # an embedded base is built once, before four silos want it at once
    site, settings = prepare(folder, config, silos)
    with unwinding(), deployed(site, console) as deployment:
        submit(deployment, settings, console)
    run = read_run(site.run)
    print_summary(run, console, sorted((site.run / "plots").glob("*.png")))
    return site.run


@contextmanager
def deployed(site: Site, console: Console) -> Iterator[Deployment]:
    """Start a site's SuperLink and SuperNodes; yield once all are online; end them all."""
    mark = str(site.folder)
    with all_ended(mark), ExitStack() as stack:
        environment = environment_of(mark, site.home(SERVER))
        address = f"{LOOPBACK}:{free_port()}"
        superlink = _superlink(site, address, environment, stack)
        _say(console, f"SuperLink answers at https://{address}")
        for silo in site.silos:
            key = site.node_key(silo)
            _flwr(site, environment, "supernode", "register", f"{key}.pub", CONNECTION)
        nodes = {silo: _supernode(site, silo, address, stack) for silo in site.silos}
        deployment = Deployment(site, address, environment, superlink, nodes)
        _wait_until_online(deployment)
        _say(console, f"{len(nodes)} SuperNodes are online")
        yield deployment
    _say(console, "SuperLink and SuperNodes are ended")


def submit(deployment: Deployment, settings: RunConfig, console: Console) -> None:
    """Submit the app as a run, show it, and wait for its end; RunError unless it completed."""
    site, environment = deployment.site, deployment.environment
    app = staged(site.folder / "app" / "fedvemoe")
    file = site.folder / "server" / "settings.toml"
    file.write_text(toml(settings.to_flat()), encoding="utf-8")
    command = ["flwr", "run", str(app), CONNECTION, "--stream", "--run-config", str(file)]
    log = site.log("run")
    _say(console, f"the run is submitted; its log is {log}")
    gone: set[str] = set()
    with log.open("a") as output, running(command, environment, site.folder, output) as streaming:

        def goes_on() -> bool:
            for silo in _newly_ended(deployment.supernodes, gone):
                _say(console, f"SuperNode of {silo} has ended; its log is {site.log(silo)}")
            return streaming.poll() is None and deployment.superlink.poll() is None

        state = follow(site.run, console, goes_on)
        _wait(streaming, 30)
    try:
        raise_unless_completed(CONNECTION, environment, site.folder, log)
    except RunError as error:
        blamed = log if deployment.superlink.poll() is None else site.log(SERVER)
        reason = "; ".join(filter(None, [state.reason, str(error)]))
        raise RunError(f"{reason}\n{last_lines(blamed)}") from error


def _newly_ended(processes: Mapping[str, Process], known: set[str]) -> list[str]:
    """Return who has ended since the last call, and keep it in ``known``."""
    ended = {silo for silo, process in processes.items() if process.poll() is not None}
    new = sorted(ended - known)
    known |= ended
    return new


def last_lines(log: Path) -> str:
    """Return the end of a log under its name."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = text.splitlines()[-LAST_LINES:]
    return "\n".join([f"the last lines of {log}:", *(f"  {line}" for line in lines)])


def _superlink(
    site: Site, address: str, environment: Mapping[str, str], stack: ExitStack
) -> Process:
    host, _, port = address.partition(":")
    home = site.home(SERVER)
    home.mkdir()
    connection = {"address": address, "root-certificates": str(site.keys / CA)}
    table = f"[superlink.{CONNECTION}]\n{toml(connection)}"
    (home / "config.toml").write_text(table, encoding="utf-8")
    command = [
        *("flower-superlink", "--host", host, "--port", port),
        *("--ssl-certfile", str(site.keys / CERTIFICATE), "--ssl-keyfile", str(site.keys / KEY)),
        *("--ssl-ca-certfile", str(site.keys / CA), "--enable-supernode-auth"),
        *("--database", str(site.folder / "server" / "state.db")),
        "--disable-runtime-dependency-installation",
    ]
    log = site.log(SERVER)
    output = stack.enter_context(log.open("a"))
    process = stack.enter_context(running(command, environment, home, output))
    with _blaming(log):
        wait_for(lambda: healthy(address, site.keys / CA), process, "SuperLink", log)
    return process


def _supernode(site: Site, silo: str, address: str, stack: ExitStack) -> Process:
    command = [
        *("flower-supernode", "--superlink", address, "--root-certificates", str(site.keys / CA)),
        *("--auth-supernode-private-key", str(site.node_key(silo))),
        *("--host", LOOPBACK, "--port", str(free_port())),
        *("--node-config", str(site.node_config(silo))),
    ]
    home = site.home(silo)
    environment = environment_of(str(site.folder), home)
    output = stack.enter_context(site.log(silo).open("a"))
    return stack.enter_context(running(command, environment, home, output))


def _wait_until_online(deployment: Deployment) -> None:
    """Wait until SuperLink lists every SuperNode as online; RunError where one has ended."""
    site, deadline = deployment.site, time.monotonic() + 2 * STARTUP_SECONDS
    while time.monotonic() < deadline:
        for silo, process in deployment.supernodes.items():
            if process.poll() is not None:
                raise RunError(f"SuperNode of {silo} has ended\n{last_lines(site.log(silo))}")
        listed = _flwr(
            site, deployment.environment, "supernode", "list", CONNECTION, "--format", "json"
        )
        nodes = json.loads(listed[listed.index("{") :])["nodes"]
        if sum(node["status"] == "online" for node in nodes) == len(site.silos):
            return
        time.sleep(1)
    raise RunError(f"not all SuperNodes came online\n{last_lines(site.log(SERVER))}")


def _flwr(site: Site, environment: Mapping[str, str], *words: str) -> str:
    """Run a command of ``flwr`` and return what it prints; RunError where it fails."""
    done = subprocess.run(
        ["flwr", *words],
        cwd=site.folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise RunError(f"flwr {' '.join(words[:2])} failed: {said}\n{last_lines(site.log(SERVER))}")
    return done.stdout


@contextmanager
def _blaming(log: Path) -> Iterator[None]:
    """Add the last lines of a program's log to the reason for which it did not start."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}\n{last_lines(log)}") from error


def _wait(process: Process, seconds: float) -> None:
    """Wait for a process that should end by itself; whoever started it ends it otherwise."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
