"""A deployment's keys, a silo's node config, and the way to SuperLink."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import tomllib
from pathlib import Path

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.doctor.finding import Finding, failed, ok, warning
from fedvemoe_app.doctor.resources import writable
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.flower.silo.premises import on_premises
from fedvemoe_app.secagg.roster import Identity, read_roster
from fedvemoe_app.worker.door import door_of
from fedvemoe_app.worker.place import Owner
from fedvemoe_app.worker.resident import Service

SECONDS = 5
ECHO_SECONDS = 1.0


def roster(path: str, consortium_key: str) -> Finding:
    """Check that the consortium signed the roster."""
    try:
        found = read_roster(path, consortium_key)
    except SettingError as error:
        return failed(
            str(error), "ask the consortium for its roster and key; fedvemoe roster verify"
        )
    return ok(f"roster of {len(found.members)} silos, fingerprint {found.fingerprint[:16]}")


def node_config(file: Path) -> tuple[Finding, NodeSettings | None]:
    """Check that a node config can be read, in all its keys; return it, None where it cannot."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return failed(f"node config {file}: {error}", "write it as TOML: docs/deployment.md"), None
    lacking = [key for key in ("partition-id", "identity-key") if key not in found]
    if lacking:
        return failed(f"node config {file} lacks {', '.join(lacking)}", "docs/deployment.md"), None
    try:
        node = NodeSettings.of(found)
    except SettingError as error:
        return failed(f"{file}: {error}", "docs/configuration.md has a table of all keys"), None
    return ok(f"node config of {silo_name(node.partition_id)}"), node


def identity(node: NodeSettings) -> Finding:
    """Check a silo's identity key: its owner's alone, and the one in the roster."""
    path, name = Path(node.identity_key), silo_name(node.partition_id)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = Identity.from_pem(name, path.read_text(encoding="utf-8"))
    except OSError as error:
        return failed(f"identity-key {path}: {error.strerror}", "fedvemoe roster create")
    except SettingError as error:
        return failed(str(error), "set identity-key to the .pem file of this silo")
    if mode & 0o077:
        return failed(f"identity-key {path} has mode {mode:04o}", f"chmod 600 {path}")
    try:
        members = read_roster(node.roster, node.consortium_key).members
    except SettingError as error:
        return failed(str(error), "set roster and consortium-key in the node config")
    if members.get(name) != key.public:
        return failed(
            f"identity-key {path} is not that of {name} in the roster",
            "send the .pub file to the consortium and ask for a new roster",
        )
    return ok(f"identity-key of {name}: mode {mode:04o}, in the roster")


def premises(config: RunConfig, node: NodeSettings) -> tuple[Finding, RunConfig]:
    """Check a silo's own paths; return the settings that it will work by."""
    try:
        own = on_premises(config, node)
    except SettingError as error:
        return failed(str(error), "mend the node config: docs/configuration.md has a table"), config
    return ok(f"data-path {own.data.dataset_name}, base {own.model.model_name}"), own


def state(node: NodeSettings) -> Finding:
    """Check the folder for what must outlive a run."""
    if not node.state_path:
        lost = "its own expert, and what it must never unmask twice, end with the run's processes"
        return warning(f"no state-path: {lost}", "set state-path to a folder of this silo's own")
    return writable("state-path", node.state_path)


def worker(node: NodeSettings) -> Finding:
    """Check that the silo's resident worker can start here, by starting one that loads nothing."""
    if not node.worker:
        return ok("worker = false: every message loads the base anew")
    try:
        echo = Service("builtins:list", "examined", ECHO_SECONDS)
        door = door_of(echo, Owner.of(os.getpid()), "doctor", node.worker_folder)
        door.ask([b"here"])
    except RunError as error:
        return warning(f"worker: {error}", "without it every message loads the base anew")
    return ok(
        f"worker: starts in {door.place.folder.parent}, ends when idle for {node.worker_idle:.0f} s"
    )


def superlink(address: str, root_certificates: Path | None) -> Finding:
    """Check that something answers at HOST:PORT with a certificate that the CA vouches for."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return failed(f"--superlink {address}: no HOST:PORT", "such as superlink.example.org:9092")
    try:
        context = ssl.create_default_context(
            cafile=str(root_certificates) if root_certificates else None
        )
    except OSError as error:
        what = f"--root-certificates {root_certificates}: {error.strerror or error}"
        return failed(what, "give the consortium's ca.crt, a certificate in PEM")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return ok(f"SuperLink at {address} answers over {secured.version()}")
    except ssl.SSLCertVerificationError as error:
        return failed(
            f"the certificate of {address} does not hold: {error.verify_message}",
            "take the consortium's ca.crt as --root-certificates, and a host name it vouches for",
        )
    except ssl.SSLError as error:
        return failed(f"{address} speaks no TLS: {error.reason}", "start SuperLink with --ssl-...")
    except OSError as error:
        reason = error.strerror or str(error)
        return failed(f"{address}: {reason}", "start SuperLink, or open its port in the firewall")
