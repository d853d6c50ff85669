"""A run that was cut goes on from its last complete round, and ends as if it never had been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from fedvemoe_app.errors import BaseModelError, DataError, FedVemoeError, RunError, SettingError
from fedvemoe_app.flower.resume.resuming import alone_in
from fedvemoe_app.report.journal import Run
from tests.federation import SILOS, Settings, federate, write_tasks
from tests.flower.cut import SHORT, counting, cut_at, cut_in, interrupted, resumed, same_run
from tests.flower.open_world import BIRTH, ONE_EXPERT, TOO_DEAR, TOO_MANY, structure

QUICK: Settings = {**SHORT, "num-server-rounds": 2, "local-steps": 1, "probe-tokens": 20}


@pytest.fixture(scope="module")
def cut_settings(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    chosen = {**QUICK, "privacy": "secagg", "private-slot": "local"}
    return {**settings_in(tmp_path_factory.mktemp("cut")), **chosen}


@pytest.fixture(scope="module")
def cut(cut_settings: Settings) -> Path:
    """The folder of a run that was cut in round 2. Copy what you change."""
    return interrupted(cut_settings, cut_in("train", 2))


def test_a_run_goes_on_as_if_it_had_never_been_cut(cut: Path, cut_settings: Settings) -> None:
    whole = federate({**cut_settings, "run-name": "whole"})
    half = json.loads((cut / "manifest.json").read_text())
    run = resumed({**cut_settings, "run-name": "ignored"}, cut)
    same_run(run, whole)
    assert run.folder == cut
    assert [entry["round"] for entry in run.manifest["resumed"]] == [1]
    assert {key: run.manifest[key] for key in half} == half
    finished_runs_say_so(cut, cut_settings)


def finished_runs_say_so(folder: Path, settings: Settings) -> None:
    with pytest.raises(RunError, match=r"is finished: 2 rounds are complete.*num-server-rounds"):
        resumed(settings, folder)


@pytest.fixture
def refused(
    settings: Callable[..., Settings], tmp_path: Path
) -> Callable[[type[FedVemoeError], str], None]:
    """Check that a run which was cut after row 0 does not go on with changed settings."""
    own = {**settings(), **QUICK, "start": "none"}
    folder = interrupted(own, cut_in("train", 1))
    before = {file: file.read_bytes() for file in folder.rglob("*.json*")}

    def check(kind: type[FedVemoeError], reason: str, **changes: bool | int | float | str) -> None:
        more = {key.replace("_", "-"): value for key, value in changes.items()}
        with pytest.raises(kind, match=reason):
            resumed({**own, **more}, folder)
        assert {file: file.read_bytes() for file in folder.rglob("*.json*")} == before

    check.folder = folder  # type: ignore[attr-defined]
    return check


def test_what_differs_is_shown_and_nothing_is_touched(
    refused: Callable[..., None], small_base: Path, tmp_path: Path
) -> None:
    refused(SettingError, "cannot go on with other settings: seed = 1, the run has 0", seed=1)
    refused(SettingError, r"local-steps = 3, the run has 1; seed = 1", seed=1, local_steps=3)
    refused(SettingError, "num-server-rounds = 1: the run has 2", num_server_rounds=1)
    refused(SettingError, "strategy = fedavg, the run has fedvemoe", strategy="fedavg")
    other = write_tasks(tmp_path / "other")
    (other / "code_0.json").unlink()
    refused(DataError, "nowhere: no such folder", dataset_name=str(tmp_path / "nowhere"))
    refused(DataError, "task bank has fingerprint .*set dataset-name", dataset_name=str(other))
    base = Path(shutil.copytree(small_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    refused(BaseModelError, "base has fingerprint .*set model-name", model_name=str(base))
    with pytest.raises(RunError, match="nowhere is not a run"):
        resumed({}, tmp_path / "nowhere")


def test_two_processes_do_not_share_a_run(refused: Callable[..., None]) -> None:
    with alone_in(refused.folder):  # type: ignore[attr-defined]
        refused(RunError, "is in use: another process is running this run")


def test_a_name_that_is_taken_by_an_unfinished_run_says_how_it_goes_on(
    refused: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    name = refused.folder.name  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"exists already: .*; or, row 0 .*fedvemoe resume .*run-"):
        federate({**settings(), "run-name": name})


def test_a_silo_that_lost_its_state_cannot_go_on_in_a_simulation(
    settings: Callable[..., Settings],
) -> None:
    own = {**settings(), **QUICK, "start": "none", "privacy": "none"}
    folder = interrupted(own, cut_in("train", 1))
    (file,) = (folder / "checkpoint" / "silos" / "silo-02").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(RunError, match=r"cannot go on with silo-02 as before: .*cannot be read"):
        resumed(own, folder)
    shutil.rmtree(file.parent)
    with pytest.raises(RunError, match="with silo-02 as before: their states are missing"):
        resumed(own, folder)
    file.write_bytes(whole)
    assert [row["round"] for row in resumed(own, folder).rounds] == [0, 1, 2]


def test_a_torn_checkpoint_costs_a_round(settings: Callable[..., Settings]) -> None:
    own = {**settings(), **QUICK, "start": "none", "privacy": "none"}
    whole = federate(own)
    cut = {**settings(), **QUICK, "start": "none", "privacy": "none"}
    folder = interrupted(cut, cut_in("evaluate", 2))
    newest = folder / "checkpoint" / "round-0001.safetensors"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    run = resumed(cut, folder)
    same_run(run, whole)
    assert [entry["round"] for entry in run.manifest["resumed"]] == [0]


# Every method, every form of sums, any message: slow.

METHODS: dict[str, Settings] = {
    "under masks": {"privacy": "secagg", "private-slot": "local"},
    "unmasked words of 16 bits": {"privacy": "sim", "secagg-bits": 16},
    "half of the silos": {"fraction-train": 0.5, "private-slot": "local", "eval-every": 2},
    "tuned": {"private-slot": "tuned", "lora-factors": "alternate"},
    "drawn": {"start": "random"},
    "fedadam": {"strategy": "fedadam", "lora-factors": "alternate"},
    "fedyogi": {"strategy": "fedyogi", "privacy": "secagg"},
    "flower's momentum": {"strategy": "flwr:FedAvgM", "server-beta1": 0.7},
    "ditto": {"strategy": "ditto"},
    "local": {"strategy": "local", "total-steps": 7},
    "ifca": {"strategy": "ifca"},
}


@pytest.fixture(scope="module")
def wholes(
    settings_in: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Run, int, Callable[[], Settings]]]:
    """Run each method once, uncut; count its replies."""
    folder, known = tmp_path_factory.mktemp("wholes"), {}

    def whole(name: str) -> tuple[Run, int, Callable[[], Settings]]:
        def fresh() -> Settings:
            return {**settings_in(folder), **SHORT, **METHODS[name]}

        if name not in known:
            tamper, count = counting()
            run = federate(fresh(), tamper=tamper)
            known[name] = run, count()
        return *known[name], fresh

    return whole


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@effort(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_run_that_is_cut_anywhere_goes_on(
    name: str, place: float, wholes: Callable[[str], tuple[Run, int, Callable[[], Settings]]]
) -> None:
    whole, replies, fresh = wholes(name)
    own = fresh()
    folder = interrupted(own, cut_at(1 + int(place * replies)))
    if list((folder / "checkpoint").glob("round-*")):
        same_run(resumed(own, folder), whole)
    else:
        with pytest.raises(RunError, match="no round is complete"):
            resumed(own, folder)


STRUCTURES: dict[str, tuple[Settings, tuple[tuple[str, int], ...]]] = {
    "a birth": (
        {**ONE_EXPERT, "num-server-rounds": BIRTH + 2},
        (("train", BIRTH), ("evaluate", BIRTH), ("train", BIRTH + 1)),
    ),
    "a prune": ({**TOO_MANY, "num-server-rounds": 5}, (("evaluate", 4), ("train", 5))),
    "a merge": (
        {**TOO_DEAR, "num-server-rounds": 6},
        (*(("evaluate", r) for r in (4, 5)), *(("train", r) for r in (5, 6))),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "secagg"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_lifecycle_goes_on(name: str, privacy: str, settings: Callable[..., Settings]) -> None:
    changes, cuts = STRUCTURES[name]
    own = {**changes, "privacy": privacy, "c-min": 1}
    whole = federate({**settings(), **own})
    assert structure(whole)
    for kind, round_ in cuts:
        chosen = {**settings(), **own}
        same_run(resumed(chosen, interrupted(chosen, cut_in(kind, round_))), whole)


@pytest.mark.slow
def test_a_run_that_is_cut_twice_goes_on_twice(settings: Callable[..., Settings]) -> None:
    own = {**SHORT, "privacy": "secagg", "private-slot": "local"}
    whole = federate({**settings(), **own})
    chosen = {**settings(), **own}
    folder = interrupted(chosen, cut_in("train", 2))
    assert interrupted({**chosen, "resume": str(folder)}, cut_in("train", 3)) == folder
    run = resumed(chosen, folder)
    same_run(run, whole)
    assert [entry["round"] for entry in run.manifest["resumed"]] == [1, 2]


@pytest.mark.slow
def test_a_finished_run_may_have_more_rounds(settings: Callable[..., Settings]) -> None:
    own = {**ONE_EXPERT, "num-server-rounds": BIRTH + 1, "c-min": 1, "privacy": "secagg"}
    whole = federate({**settings(), **own})
    short = {**settings(), **own, "num-server-rounds": BIRTH - 1}
    run = resumed({**short, "num-server-rounds": BIRTH + 1}, federate(short).folder)
    assert structure(run) == structure(whole)
    same_run(run, whole)
    assert SILOS == 4
