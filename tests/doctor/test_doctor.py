"""The doctor through its door: a sound machine passes; every check can fail and says the fix."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedvemoe_app.cli.main import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.deploy.keys import CA, CERTIFICATE, KEY, write_certificates
from fedvemoe_app.deploy.site import Site, prepare
from fedvemoe_app.doctor import resources
from fedvemoe_app.doctor.memory import training_peak
from fedvemoe_app.flower.programs.processes import free_port
from fedvemoe_app.model import base_build
from fedvemoe_app.model.backbone import load_backbone
from fedvemoe_app.model.footprint import Shape
from fedvemoe_app.overrides import gather
from tests.federation import SILOS, Settings

runner = CliRunner()
Edit = Callable[[pytest.MonkeyPatch], object]
ENVIRONMENT = "fedvemoe_app.doctor.environment."
MEMORY = "fedvemoe_app.doctor.memory."
RESOURCES = "fedvemoe_app.doctor.resources."


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def words(settings: Callable[..., Settings]) -> list[str]:
    return [f"{key}={value}" for key, value in settings().items()]


@pytest.fixture
def site(settings: Callable[..., Settings], tmp_path: Path) -> Site:
    return prepare(tmp_path / "site", RunConfig.from_flat(settings()), SILOS)[0]


def call(*arguments: str | Path) -> Result:
    return runner.invoke(app, ["doctor", *map(str, arguments)])


def rows(result: Result, sign: str) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith(f"│ {sign}")]


def fails(result: Result, *named: str | Path) -> None:
    """Check that exactly one row failed, with what and fix, and the exit code says so."""
    assert result.exit_code == 1, result.output
    (row,) = rows(result, "FAILED")
    for name in named:
        assert str(name) in row
    assert row.split("│")[3].strip()


def test_a_sound_machine_passes(words: list[str]) -> None:
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert rows(result, "FAILED") == []
    for name in ("Python 3", "flwr 1.", "torch 2.", "transformers 5.", "peft 0.", "8 tasks"):
        assert name in result.output


def no_bitsandbytes(name: str) -> str:
    if name == "bitsandbytes":
        raise PackageNotFoundError(name)
    from importlib.metadata import version

    return version(name)


MACHINES: dict[str, tuple[dict[str, Any], list[str], tuple[str, ...]]] = {
    "old Python": (
        {ENVIRONMENT + "platform.python_version": lambda: "3.9.1"},
        [],
        ("Python 3.9.1", ">=3.11", "make install PYTHON="),
    ),
    "old package": (
        {ENVIRONMENT + "version": lambda name: "1.0" if name == "peft" else no_bitsandbytes(name)},
        [],
        ("peft 1.0", "peft>=1.2", "pip install 'peft>=1.2'"),
    ),
    **{
        f"no bitsandbytes for {bits} bits": (
            {ENVIRONMENT + "version": no_bitsandbytes},
            [f"use-{bits}bit=true"],
            ("bitsandbytes is not installed", "pip install 'bitsandbytes"),
        )
        for bits in (4, 8)
    },
    "no GPU": (
        {ENVIRONMENT + "torch.cuda.is_available": lambda: False},
        ["device=cuda:1"],
        ("device = cuda:1", "0 GPUs", "device=auto"),
    ),
    "no memory": (
        {MEMORY + "psutil.virtual_memory": lambda: type("M", (), {"available": 1000})()},
        ["device=cpu"],
        ("memory: 0.0 GB free", "use-8bit=true 0.0 GB, use-4bit=true 0.0 GB", "with all of them"),
    ),
    "no disk": (
        {RESOURCES + "shutil.disk_usage": lambda place: type("D", (), {"free": 1000})()},
        [],
        ("disk at", "log-dir"),
    ),
    "no base": ({}, ["model-name=/nowhere/base"], ("/nowhere/base", "model-name")),
    "no tasks": ({}, ["dataset-name=/nowhere/tasks"], ("/nowhere/tasks", "fedvemoe data inspect")),
    "no place for results": ({}, [f"log-dir={__file__}/runs"], (__file__, "cannot be written")),
    "a foreign roster": (
        {},
        ["roster=/nowhere/roster.json", "consortium-key=00"],
        ("/nowhere/roster.json", "ask the consortium"),
    ),
    "no port": ({}, ["--superlink", "somewhere"], ("somewhere: no HOST:PORT", "such as")),
}


@pytest.mark.parametrize("what", MACHINES)
def test_every_check_can_fail(what: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    patches, given, named = MACHINES[what]
    if what == "old package":
        needs = ["peft>=1.2"]
        monkeypatch.setattr(ENVIRONMENT + "requires", lambda package: needs)
    for target, value in patches.items():
        monkeypatch.setattr(target, value)
    fails(call(*words, *given), *named)


def test_a_wrong_setting_is_one_readable_reason() -> None:
    result = call("k-inti=3")
    assert result.exit_code == 1
    assert "did you mean k-init" in result.output


def test_rows_that_were_left_out_are_a_warning(words: list[str], tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    good = '{"task_name": "a", "definition": "Do.", "inputs": "%d", "targets": "%d"}\n'
    text = "".join(good % (i, i) for i in range(60))
    (bank / "rows.jsonl").write_text(text + "{broken\n")
    result = call(*words, f"dataset-name={bank}")
    assert result.exit_code == 0, result.output
    (row,) = rows(result, "warning")
    assert "1 rows left out" in row
    assert "rows.jsonl, line 61" in row


def test_an_embedded_base_is_built_or_will_be(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDVEMOE_CACHE", str(tmp_path / "cache"))
    quick = replace(base_build.RECIPES["tiny"], steps=1)
    monkeypatch.setattr(base_build, "RECIPES", {"tiny": quick})
    given = [word for word in words if not word.startswith("model-name")]
    assert "builtin:tiny: built on first use" in call(*given).output
    base_build.builtin_base("tiny")
    assert f"builtin:tiny: built, in {tmp_path}" in call(*given).output


def test_scarce_memory_is_a_warning(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    base = RunConfig.from_flat(dict(word.split("=") for word in words if "model-name" in word))
    model = load_backbone(base.model.model_name, device="cpu").model
    need = 4 * sum(parameter.numel() for parameter in model.parameters())
    free = type("M", (), {"available": 1.5 * need})()
    monkeypatch.setattr(MEMORY + "psutil.virtual_memory", lambda: free)
    result = call(*words, "device=cpu")
    assert result.exit_code == 0, result.output
    (row,) = rows(result, "warning")
    assert "gradient-checkpointing=true" in row
    assert "activations" in row


def test_training_is_computed_for_the_experts_that_the_strategy_trains(words: list[str]) -> None:
    """IFCA trains one expert of four, fedvemoe two, FedEM all of them."""

    def activations(strategy: str) -> float:
        given = [*words, f"strategy={strategy}", "start=random", "k-init=4", "k-max=4", "top-m=2"]
        config = RunConfig.from_flat(gather(RunConfig, None, given))
        _, base = resources.base(config.model)
        assert base
        return training_peak(config, Shape.of(base.model), on_gpu=False).activations

    one, two, all_four = map(activations, ("ifca", "fedvemoe", "fedem"))
    assert (two, all_four) == (pytest.approx(2 * one), pytest.approx(4 * one))


SMALLER = {
    (): "use-8bit=true 7.5 GB, use-4bit=true 5.1 GB, gradient-checkpointing=true",
    ("use-8bit=true",): "Needed with use-4bit=true use-8bit=false 5.1 GB, gradient-",
    ("use-4bit=true",): "Needed with gradient-checkpointing=true",
    ("use-4bit=true", "gradient-checkpointing=true"): "Needed with seq-len=",
}


@pytest.mark.parametrize("given", SMALLER)
def test_what_would_need_less_is_said_with_its_numbers(
    given: tuple[str, ...], words: list[str], small_base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A base of a few billion weights, of which there is nothing but the configuration."""
    base = shutil.copytree(small_base, tmp_path / "base")
    wide = json.loads((base / "config.json").read_text())
    wide |= {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 24}
    (base / "config.json").write_text(json.dumps(wide))
    free = type("M", (), {"available": 1e6})()
    monkeypatch.setattr(MEMORY + "psutil.virtual_memory", lambda: free)
    result = call(*words, f"model-name={base}", "dtype=bfloat16", "device=cpu", *given)
    (row,) = rows(result, "FAILED")
    assert SMALLER[given] in row
    needed = [float(size) for size in re.findall(r"([\d.]+) GB", row.split("Needed with")[1])]
    assert min(needed) == needed[-1]  # with all of them
    assert max(needed) < float(re.findall(r"training: ([\d.]+) GB", row)[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_was_saved_in_few_bits_is_computed_in_them(
    bits: int, words: list[str], small_base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    free = type("M", (), {"available": 1e6})()
    monkeypatch.setattr(MEMORY + "psutil.virtual_memory", lambda: free)
    wide = json.loads((small_base / "config.json").read_text())
    wide |= {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 24}
    found = []
    for name, saved in ({"whole": {}, "saved": {"quant_method": "bitsandbytes"}}).items():
        base = shutil.copytree(small_base, tmp_path / name)
        own = {"quantization_config": {**saved, f"load_in_{bits}bit": True}} if saved else {}
        (base / "config.json").write_text(json.dumps({**wide, **own}))
        given = [] if saved else [f"use-{bits}bit=true"]
        result = call(*words, f"model-name={base}", "dtype=bfloat16", "device=cpu", *given)
        (row,) = rows(result, "FAILED")
        found.append(row)
    asked, taken = found
    weights = [re.findall(r"weights ([\d.]+) GB", row) for row in found]
    assert weights[0] == weights[1]
    assert "use-4bit=true" not in taken
    assert ("use-4bit=true" in asked) == (bits == 8)


def test_weights_that_are_cut_short_fail(
    words: list[str], small_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(small_base, tmp_path / "base")
    (weights,) = base.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(call(*words, f"model-name={base}"), weights, "copy the base again")


def test_a_cache_that_cannot_be_written_fails(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    monkeypatch.setenv("FEDVEMOE_CACHE", str(tmp_path / "cache"))
    fails(call(*words, "model-name=builtin:tiny"), "cannot be built", "set FEDVEMOE_CACHE")


# A silo of a deployment.


def test_a_sound_silo_passes(site: Site, words: list[str]) -> None:
    result = call(*words, "--node-config", site.node_config("silo-01"))
    assert result.exit_code == 0, result.output
    assert "identity-key of silo-01: mode 0600, in the roster" in result.output
    assert "2 tasks" in result.output


def edit(site: Site, **changes: str) -> Path:
    file = site.node_config("silo-01")
    lines = file.read_text().splitlines()
    for key, value in changes.items():
        name = key.replace("_", "-")
        kept = [line for line in lines if not line.startswith(f"{name} = ")]
        lines = [*kept, f"{name} = {value}"] if value else kept
    file.write_text("\n".join(lines))
    return file


NODES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "no key": ({"identity_key": '"/nowhere.pem"'}, ("/nowhere.pem", "fedvemoe roster create")),
    "no identity": ({"identity_key": ""}, ("lacks identity-key", "docs/deployment.md")),
    "not TOML": ({"device": "auto auto"}, ("node config", "TOML")),
    "no number": ({"partition_id": '"one"'}, ('partition-id = "one"', "table")),
    "no roster": ({"roster": ""}, ("roster", "set roster and consortium-key")),
    "another's key": ({"partition_id": "2"}, ("not that of silo-02", "new roster")),
    "no data": ({"data_path": ""}, ("data-path is missing", "node config")),
    "a worker of words": ({"worker": '"yes"'}, ('worker = "yes"', "table")),
    "no time to idle": ({"worker_idle": "-1"}, ("worker-idle = -1.0: must be at least 1", "table")),
    "a state somewhere": ({"state_path": '"state"'}, ('state-path = "state"', "absolute")),
    "a state in a file": (
        {"state_path": '"/dev/null/state"'},
        ("state-path /dev/null", "writable"),
    ),
    "a demand misspelt": ({"reqire_confirm": "true"}, ("did you mean require-confirm?", "table")),
    "no form of sums": ({"accepted_privacy": '"secag"'}, ("secag is none of", "table")),
    "no number of noise": ({"least_dp_noise": '"abc"'}, ('least-dp-noise = "abc"', "table")),
    "a hidden base": ({"model_path": '"/nowhere"'}, ("model-path = /nowhere", "table")),
}


@pytest.mark.parametrize("what", NODES)
def test_every_check_of_a_silo_can_fail(what: str, site: Site, words: list[str]) -> None:
    changes, named = NODES[what]
    fails(call(*words, "--node-config", edit(site, **changes)), *named)


def test_a_silo_without_a_state_is_told_what_it_loses(site: Site, words: list[str]) -> None:
    result = call(*words, "--node-config", edit(site, state_path=""))
    assert result.exit_code == 0, result.output
    assert any("no state-path" in row for row in rows(result, "warning")), result.output


WORKERS = {
    "": ("ok", "worker: starts in"),
    "false": ("ok", "worker = false: every message loads the base anew"),
    "true": ("warning", "/nowhere/fedvemoe"),
}


@pytest.mark.parametrize("wanted", WORKERS)
def test_a_silo_learns_whether_its_worker_can_start(
    wanted: str, site: Site, words: list[str]
) -> None:
    sign, said = WORKERS[wanted]
    folder = '"/nowhere"' if sign == "warning" else ""
    node = edit(site, worker=wanted, worker_folder=folder)
    result = call(*words, "--node-config", node)
    assert result.exit_code == 0, result.output
    assert any(said in row for row in rows(result, sign)), result.output


def test_a_key_that_others_may_read_fails_with_its_fix(site: Site, words: list[str]) -> None:
    key = site.keys / "silo-01.pem"
    os.chmod(key, 0o644)
    result = call(*words, "--node-config", site.node_config("silo-01"))
    fails(result, "mode 0644", f"chmod 600 {key}")


def test_a_server_with_a_roster_needs_no_data(site: Site, words: list[str]) -> None:
    key = site.node_config("silo-00").read_text().split('consortium-key = "')[1][:64]
    own = [f"roster={site.keys / 'roster.json'}", f"consortium-key={key}"]
    result = call(*words, *own, "dataset-name=/nowhere/tasks")
    assert result.exit_code == 0, result.output
    assert f"roster of {SILOS} silos" in result.output


# SuperLink.


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[int]:
    """Something that shakes hands over TLS; yields its port."""
    write_certificates(tmp_path, ("localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / CERTIFICATE, tmp_path / KEY)
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            try:
                connection, _ = plain.accept()
                with context.wrap_socket(connection, server_side=True):
                    pass
            except OSError:
                pass

        threading.Thread(target=answer, daemon=True).start()
        yield plain.getsockname()[1]


def test_a_superlink_that_answers(listener: int, words: list[str], tmp_path: Path) -> None:
    address = "--superlink", f"localhost:{listener}", "--root-certificates", tmp_path / CA
    result = call(*words, *address)
    assert result.exit_code == 0, result.output
    assert "answers over TLSv1.3" in result.output


def test_one_that_another_authority_vouches_for(
    listener: int, words: list[str], tmp_path: Path
) -> None:
    write_certificates(tmp_path / "other", ("localhost",))
    ca = tmp_path / "other" / CA
    result = call(*words, "--superlink", f"localhost:{listener}", "--root-certificates", ca)
    fails(result, "does not hold", "--root-certificates")


def test_one_under_another_name(listener: int, words: list[str], tmp_path: Path) -> None:
    address = "--superlink", f"127.0.0.1:{listener}", "--root-certificates", tmp_path / CA
    fails(call(*words, *address), "does not hold", "host name")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(
    text: str | None, words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "nope.crt"
    if text:
        file.write_text(text)
    result = call(*words, "--superlink", "localhost:1", "--root-certificates", file)
    fails(result, f"--root-certificates {file}: ", "ca.crt")


def test_nobody_there(words: list[str]) -> None:
    port = free_port()
    fails(call(*words, "--superlink", f"127.0.0.1:{port}"), "refused", "firewall")


def test_somebody_without_tls(words: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        result = call(*words, "--superlink", f"127.0.0.1:{plain.getsockname()[1]}")
    fails(result, "speaks no TLS", "--ssl-")
