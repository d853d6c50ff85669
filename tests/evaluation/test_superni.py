from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import evaluate
import pytest

from fedvemoe_app.evaluation import superni
from fedvemoe_app.evaluation.superni import SuperNI
from fedvemoe_app.evaluation.text import score

PREDICTIONS = ["The cat sat.", "jumping", "a dog"]
REFERENCES = [["x", "the cat sat"], ["jumped"], ["two dogs", "no"]]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the metric went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_means_in_percent() -> None:
    each = [score(*pair) for pair in zip(PREDICTIONS, REFERENCES, strict=True)]
    result = SuperNI().compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result["rouge_l"] == pytest.approx(100 * sum(s.rouge_l for s in each) / 3)
    assert result["exact_match"] == pytest.approx(100 / 3)


def test_loads_from_its_file() -> None:
    metric = evaluate.load(superni.__file__)
    assert metric.compute(predictions=["a"], references=[["b", "a"]])["exact_match"] == 100


def test_batches_add_up() -> None:
    metric = SuperNI()
    for prediction, references in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=prediction, reference=references)
    assert metric.compute()["exact_match"] == pytest.approx(100 / 3)


def test_two_metrics_at_once_leave_no_file(tmp_path: Path) -> None:
    one, two = SuperNI(cache_dir=str(tmp_path)), SuperNI(cache_dir=str(tmp_path))
    one.add(prediction="a", reference=["a"])
    two.add(prediction="a", reference=["b"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (one.compute()["exact_match"], two.compute()["exact_match"]) == (100, 0)


def test_no_prediction_is_an_error() -> None:
    with pytest.raises(ValueError, match="no prediction"):
        SuperNI().compute(predictions=[], references=[])


def _compute(cache: str) -> float:
    metric = SuperNI(cache_dir=cache)
    return float(metric.compute(predictions=["a", "b"], references=[["a"], ["a"]])["exact_match"])


@pytest.mark.slow
def test_concurrent_processes_do_not_clash(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_compute, [str(tmp_path)] * 6) == [50.0] * 6
