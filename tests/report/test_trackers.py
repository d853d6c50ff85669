"""Trackers: each gets what the journal holds; one that fails costs nothing but itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedvemoe_app.errors import SettingError
from fedvemoe_app.report import trackers
from fedvemoe_app.report.journal import Journal, Run, read_run
from fedvemoe_app.report.trackers import Trackers, chosen
from tests.federation import Settings, federate
from tests.report.synthetic import make_run

FAKE_WANDB = """
calls = []
class Run:
    def log(self, values, step): calls.append((step, values))
    def finish(self): calls.append("finished")
def init(**given):
    calls.append(given)
    return Run()
"""
FAKE_MLFLOW = """
from types import SimpleNamespace as Names
calls = []
class MlflowClient:
    def __init__(self, tracking_uri): calls.append(tracking_uri)
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): return name
    def create_run(self, experiment, run_name): return Names(info=Names(run_id=run_name))
    def log_batch(self, run, metrics=(), params=()):
        assert len(params) <= 100 and len(metrics) <= 1000
        calls.append((list(metrics), list(params)))
    def set_tag(self, run, key, value): calls.append(value)
    def set_terminated(self, run): calls.append("finished")
"""
FAKE_ENTITIES = """
from collections import namedtuple
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Put small wandb and mlflow packages in front of any installed ones."""
    for name, code in (("wandb", FAKE_WANDB), ("mlflow", FAKE_MLFLOW)):
        (tmp_path / "fakes" / name).mkdir(parents=True)
        (tmp_path / "fakes" / name / "__init__.py").write_text(code)
    (tmp_path / "fakes" / "mlflow" / "entities.py").write_text(FAKE_ENTITIES)
    monkeypatch.syspath_prepend(str(tmp_path / "fakes"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    import sys

    for name in ("wandb", "mlflow", "mlflow.entities"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


def replay(run: Run, folder: Path, setting: str) -> Trackers:
    """Write the rows of ``run`` into a new journal that trackers watch."""
    journal = Journal.create(folder, "tracked", run.config, {})
    tracked = Trackers(setting, journal.folder, run.config)
    journal.watchers.append(tracked)
    for row in run.rounds:
        number = row["round"]
        journal.tasks([task for task in run.tasks if task["round"] == number])
        journal.clients([silo for silo in run.clients if silo["round"] == number])
        journal.round(row)
    for event in run.events:
        journal.event(event)
    tracked.close()
    return tracked


def test_tensorboard_holds_what_the_journal_holds(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = make_run(tmp_path, silos=2, rounds=2, lifecycle=True)
    replay(run, tmp_path, "tensorboard")
    read = accumulator.EventAccumulator(str(tmp_path / "tracked" / "tensorboard"))
    read.Reload()
    ppl = [(event.step, event.value) for event in read.Scalars("ppl")]
    assert ppl == [(row["round"], pytest.approx(row["ppl"])) for row in run.rounds]
    names = set(read.Tags()["scalars"])
    assert {
        "seconds/train",
        "prior/slot_03",
        "tasks/task000_translation/ppl",
        "silos/silo-01/negative_transfer",
    } <= names
    assert [event.step for event in read.Scalars("loss_train")] == [1, 2]
    told = [event.tensor_proto.string_val[0] for event in read.Tensors("events/text_summary")]
    assert b"prune 1: no silo would miss it" in told


def test_weights_and_biases_gets_rows_in_order_of_rounds(
    tmp_path: Path, fakes: Callable[[str], Any]
) -> None:
    run = make_run(tmp_path, silos=2, rounds=2)
    replay(run, tmp_path, "wandb")
    started, *logged, finished = fakes("wandb").calls
    assert (started["name"], started["config"]) == ("tracked", run.config)
    assert started["dir"] == str(tmp_path / "tracked")
    steps = [step for step, _ in logged]
    assert steps == sorted(steps)
    assert [values["ppl"] for _, values in logged if "ppl" in values] == [
        row["ppl"] for row in run.rounds
    ]
    assert finished == "finished"


def test_mlflow_gets_settings_and_metrics_in_a_database_of_the_run(
    tmp_path: Path, fakes: Callable[[str], Any]
) -> None:
    many = {f"setting-{number}": number for number in range(150)}
    run = make_run(tmp_path, silos=2, rounds=1, settings=many, lifecycle=True)
    replay(run, tmp_path, "mlflow")
    uri, *logged = fakes("mlflow").calls
    assert uri == f"sqlite:///{tmp_path / 'tracked' / 'mlflow.db'}"
    batches = [call for call in logged if isinstance(call, tuple)]
    params = {param.key: param.value for _, params in batches for param in params}
    assert params == {key: str(value) for key, value in run.config.items()}
    ppl = [m for metrics, _ in batches for m in metrics if m.key == "ppl"]
    assert [(m.step, m.value) for m in ppl] == [(row["round"], row["ppl"]) for row in run.rounds]
    assert "merge 0, 1: their functions agree" in logged
    assert logged[-1] == "finished"


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path,
    fakes: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*what: object, **given: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(fakes("wandb").Run, "log", fail)
    monkeypatch.setattr(trackers.LOG, "propagate", True)
    run = make_run(tmp_path, silos=2, rounds=2)
    replay(run, tmp_path, "wandb,mlflow")
    assert list(read_run(tmp_path / "tracked").rounds) == list(run.rounds)
    assert [r.message for r in caplog.records if "wandb failed" in r.message] == [
        "the tracker wandb failed and is left out from here on: no network"
    ]
    assert fakes("mlflow").calls[-1] == "finished"


def test_what_is_not_installed_is_refused_by_name_and_left_out_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert chosen("auto") == chosen("none") == chosen("") == []
    with pytest.raises(SettingError, match=r"tensorboard is not installed; run pip install"):
        chosen("tensorboard")
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    assert chosen("auto") == ["tensorboard"]
    assert chosen("wandb, mlflow,wandb") == ["wandb", "mlflow"]


def test_a_whole_run_is_tracked_as_it_goes(settings: Callable[..., Settings]) -> None:
    pytest.importorskip("tensorboard")
    few = {"num_server_rounds": 1, "generate_examples": 0, "eval_examples": 2}
    run = federate(settings(trackers="auto", **few))
    assert len(list((run.folder / "tensorboard").glob("events.*"))) == 1
