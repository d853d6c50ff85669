"""Keys as files: private ones stay private, none is lost, and a wrong one is told from a right one.

Removed by hand, each turned a test here red: mode 0600; refusing to overwrite; the check of names;
the check of keys; the consortium's own name or key among the silos; the check of the signature.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from typer.testing import CliRunner, Result

from fedvemoe_app.cli.main import app
from fedvemoe_app.errors import SettingError
from fedvemoe_app.flower.messages.words import get_own, put_own
from fedvemoe_app.flower.silo.secure import secagg_advertise
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.server import Server
from fedvemoe_app.secagg.spec import SessionSpec

runner = CliRunner()
SILOS = ("silo-00", "silo-01", "silo-02")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def call(*arguments: str | Path) -> Result:
    return runner.invoke(app, ["roster", *map(str, arguments)])


def done(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(result: Result, *named: str | Path) -> None:
    """Check that the command ended as one readable reason that names the mistake."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.count("error:") == 1
    for name in named:
        assert str(name) in result.output


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the keys of three silos and of the consortium, and a signed roster."""
    for silo in SILOS:
        done("create", silo, "--output", tmp_path)
    done("create", "--consortium", "--output", tmp_path)
    done("sign", "--key", tmp_path / "consortium.pem", *public(tmp_path), *to(tmp_path))
    return tmp_path


def public(folder: Path) -> list[Path]:
    return [folder / f"{silo}.pub" for silo in SILOS]


def to(folder: Path, name: str = "roster.json") -> tuple[str, Path]:
    return "--output", folder / name


def sign(folder: Path, *files: Path) -> Result:
    return call("sign", "--key", folder / "consortium.pem", *files, *to(folder, "new.json"))


def check(folder: Path, roster: str = "roster.json", key: str = "consortium.pub") -> Result:
    return call("verify", folder / roster, "--key", folder / key)


def test_an_identity_is_a_private_and_a_public_file(tmp_path: Path) -> None:
    said = done("create", "silo-07", "--output", tmp_path / "new" / "keys")
    private, shown = (tmp_path / "new" / "keys" / f"silo-07.{kind}" for kind in ("pem", "pub"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    identity = Identity.from_pem("silo-07", private.read_text())
    assert shown.read_text() == f"{identity.public.hex()} silo-07\n"
    assert f'identity-key="{private}"' in said


def test_two_identities_differ(keys: Path) -> None:
    assert len({file.read_text().split()[0] for file in keys.glob("*.pub")}) == len(SILOS) + 1


def test_the_consortium_may_be_named_or_flagged(tmp_path: Path) -> None:
    done("create", "consortium", "--output", tmp_path / "named")
    said = done("create", "--consortium", "--output", tmp_path / "flagged")
    key = (tmp_path / "flagged" / "consortium.pub").read_text().split()[0]
    assert f'consortium-key="{key}"' in said
    assert (tmp_path / "named" / "consortium.pem").is_file()
    refused(call("create", "silo-00", "--consortium", *to(tmp_path, "")), "silo-00", "consortium")


@pytest.mark.parametrize("name", ["", "an na", "../silo-00", "x" * 65])
def test_a_name_is_short_and_plain(tmp_path: Path, name: str) -> None:
    refused(call("create", name, "--output", tmp_path), name or "--consortium")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pem", "pub"])
def test_no_key_is_ever_overwritten(tmp_path: Path, kind: str) -> None:
    there = tmp_path / f"silo-00.{kind}"
    there.write_text("precious")
    refused(call("create", "silo-00", "--output", tmp_path), there, "never overwritten")
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(there, "precious")]


def test_no_roster_is_ever_overwritten(keys: Path) -> None:
    before = (keys / "roster.json").read_text()
    again = call("sign", "--key", keys / "consortium.pem", keys / "silo-00.pub", *to(keys))
    refused(again, keys / "roster.json", "never overwritten")
    assert (keys / "roster.json").read_text() == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(call("create", "silo-00", "--output", tmp_path / "file"), "cannot be written")


def test_a_signed_roster_is_verified_by_name_and_fingerprint(keys: Path) -> None:
    result = check(keys)
    assert result.exit_code == 0
    *names, fingerprint = result.output.splitlines()
    assert names == list(SILOS)
    told = done("sign", "--key", keys / "consortium.pem", *public(keys), *to(keys, "again.json"))
    assert fingerprint.startswith("fingerprint: ")
    assert fingerprint in told


def test_a_changed_roster_fails(keys: Path) -> None:
    roster = keys / "roster.json"
    document = json.loads(roster.read_text())
    document["members"]["silo-01"] = Identity.create("eve").public.hex()
    roster.write_text(json.dumps(document))
    refused(check(keys), roster, "not signed")


def test_another_consortium_key_fails(keys: Path) -> None:
    refused(check(keys, key="silo-00.pub"), "silo-00.pub", "not signed")


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe\x00", b"[]", b"zz silo-00", b"abcd silo-00"])
def test_garbage_is_told_from_a_file(keys: Path, garbage: bytes) -> None:
    (keys / "bad").write_bytes(garbage)
    refused(check(keys, roster="bad"), keys / "bad")
    refused(check(keys, key="bad"), keys / "bad")
    refused(sign(keys, keys / "bad"), keys / "bad")
    refused(call("sign", "--key", keys / "bad", *public(keys), *to(keys, "new.json")))
    refused(check(keys, roster="none"), keys / "none", "cannot be read")
    assert not (keys / "new.json").exists()


def test_a_private_key_is_no_public_one(keys: Path) -> None:
    refused(sign(keys, keys / "silo-00.pem"), "silo-00.pem: not a public key")


def test_two_silos_of_one_name_are_refused(keys: Path) -> None:
    done("create", "silo-00", "--output", keys / "other")
    refused(sign(keys, *public(keys), keys / "other" / "silo-00.pub"), "its name is that of")


def test_two_silos_of_one_key_are_refused(keys: Path) -> None:
    key = (keys / "silo-00.pub").read_text().split()[0]
    (keys / "eve.pub").write_text(f"{key} eve\n")
    refused(sign(keys, *public(keys), keys / "eve.pub"), "eve.pub: its key is that of")


def test_the_consortium_is_no_silo(keys: Path) -> None:
    done("create", "--consortium", "--output", keys / "other")
    other = keys / "other" / "consortium.pub"
    refused(sign(keys, *public(keys), other), "its name", "the consortium is no silo")
    key = (keys / "consortium.pub").read_text().split()[0]
    (keys / "silo-03.pub").write_text(f"{key} silo-03\n")
    refused(sign(keys, keys / "silo-03.pub"), "its key", "the consortium is no silo")


def context(keys: Path, index: int) -> Context:
    """A deployed silo's context, its node config as the commands say."""
    node_config = {
        "partition-id": index,
        "num-partitions": len(SILOS),
        "identity-key": str(keys / f"{SILOS[index]}.pem"),
        "roster": str(keys / "roster.json"),
        "consortium-key": (keys / "consortium.pub").read_text().split()[0],
    }
    return Context(1, index + 1, node_config, RecordDict(), {"seed": 0})


def advertisement(context: Context, spec: SessionSpec) -> bytes:
    content = RecordDict()
    put_own(content, request=spec.to_bytes())
    return get_own(secagg_advertise(content, context), "reply")


def test_silos_take_part_with_these_files(keys: Path) -> None:
    spec = SessionSpec.new(1, "sum", SILOS)
    consortium = bytes.fromhex((keys / "consortium.pub").read_text().split()[0])
    server = Server(spec, Roster.verify((keys / "roster.json").read_text(), consortium))
    for index, silo in enumerate(SILOS):
        assert server.take_advertisement(silo, advertisement(context(keys, index), spec))


def test_a_silo_refuses_a_roster_of_somebody_else(keys: Path) -> None:
    foreign = context(keys, 0)
    foreign.node_config["consortium-key"] = (keys / "silo-01.pub").read_text().split()[0]
    with pytest.raises(SettingError, match="not signed by the pinned consortium key"):
        advertisement(foreign, SessionSpec.new(1, "sum", SILOS))


@pytest.mark.parametrize("command", ["create", "sign", "verify"])
def test_help_shows_an_example(command: str) -> None:
    assert f"fedvemoe roster {command}" in done(command, "--help")
