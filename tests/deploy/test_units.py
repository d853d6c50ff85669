"""The units and the compose file: they parse, and call Flower's programs with words that they know.

Nothing here starts them: ``docs/deployment.md`` says what was.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
PRIVATE = ("server.key", "node.key", ".pem")


class Unit(configparser.RawConfigParser):
    """A unit file: keys keep their case, and only the last of several is kept."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(file.read_text().replace("\\\n", " "))


@cache
def known_words(program: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def commands() -> dict[str, list[str]]:
    """Return every command line of the kit by where it stands."""
    found = {f"{name} in compose": one["command"] for name, one in compose()["services"].items()}
    for file in UNITS:
        found[file.stem] = Unit(file)["Service"]["ExecStart"].split()
    return found


@pytest.mark.parametrize("where", commands())
def test_flower_knows_every_word(where: str) -> None:
    program, *words = commands()[where]
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert len(flags) >= 6
    for flag in flags:
        assert re.search(rf"{flag}\b", known_words(Path(program).name)), flag


@pytest.mark.parametrize("where", commands())
def test_the_link_is_secured_at_both_ends(where: str) -> None:
    line = " ".join(commands()[where])
    assert "--insecure" not in line
    if "superlink" in where:
        assert "--enable-supernode-auth" in line
        assert "--ssl-certfile" in line
    else:
        assert "--root-certificates" in line
        assert "--auth-supernode-private-key" in line
        assert "--host=127.0.0.1" in line.replace("--host ", "--host=")


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_a_unit_comes_back_after_flower_admits_it_again(file: Path) -> None:
    service = Unit(file)["Service"]
    assert service["Restart"] == "always"
    assert int(service["RestartSec"]) > 60
    assert "Environment=FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in file.read_text()
    assert "Environment=FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1" in file.read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_systemd_accepts_a_unit(file: Path, tmp_path: Path) -> None:
    text = re.sub(r"/opt/fedvemoe/\.venv/bin/[a-z-]+", "/bin/true", file.read_text())
    (tmp_path / file.name).write_text(text)
    command = ["systemd-analyze", "verify", str(tmp_path / file.name)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in said.stderr.splitlines() if file.name in line]
    assert (said.returncode, complaints) == (0, [])


def test_private_keys_are_secrets_and_no_part_of_the_image() -> None:
    content = compose()
    mounted = [v for one in content["services"].values() for v in one["volumes"]]
    named = {secret["file"] for secret in content["secrets"].values()}
    assert len(named) == 3
    assert not any(path.partition(":")[0].endswith((".key", "silo.pem")) for path in mounted)
    used = {secret for one in content["services"].values() for secret in one["secrets"]}
    assert used == set(content["secrets"])
    copied = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if "COPY" in line]
    assert not any(name in line for line in copied for name in PRIVATE)


def test_everything_but_state_is_mounted_read_only() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True
        for volume in service["volumes"]:
            assert volume.endswith(":ro") or volume == f"{name}:/var/lib/fedvemoe"


def test_the_worker_of_a_silo_has_a_private_folder_in_its_unit_and_in_its_container() -> None:
    service = Unit(DEPLOY / "fedvemoe-supernode.service")["Service"]
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryMode"]) == ("%p", "0700")
    assert compose()["services"]["supernode"]["tmpfs"] == ["/tmp"]
    assert compose()["services"]["supernode"]["init"] is True
