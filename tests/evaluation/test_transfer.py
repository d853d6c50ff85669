from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fedvemoe_app.errors import DataError
from fedvemoe_app.evaluation.histogram import transfer_one_hot
from fedvemoe_app.evaluation.scores import Score
from fedvemoe_app.evaluation.transfer import (
    Baseline,
    Baselines,
    negative_transfer,
    own_transfer,
    read_baselines,
    summarize,
    summarize_sums,
    transfer_sums,
)


def written(folder: Path, content: Any) -> Path:
    path = folder / "local.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_positive_is_harm() -> None:
    values = negative_transfer({"a": 4.0, "b": 2.0}, {"a": 2.0, "b": 4.0})
    assert values == {"a": pytest.approx(math.log(2)), "b": pytest.approx(-math.log(2))}


def test_silos_without_either_value_are_left_out() -> None:
    assert list(negative_transfer({"a": 4.0, "b": 2.0, "c": None}, {"a": 2.0, "c": 3.0})) == ["a"]


def test_summary() -> None:
    summary = summarize([0.4, -0.2, 0.0, -0.6])
    assert summary is not None
    assert (summary.share, summary.worst) == (0.25, 0.4)
    assert summary.mean == pytest.approx(-0.1)
    assert summary.mean_positive == pytest.approx(0.1)
    assert summarize([]) is None


def test_sums_over_silos_summarise_as_the_values_would() -> None:
    values = [0.4, -0.2, 0.0, -0.6, 1e-6, None]
    sums = torch.stack([transfer_sums(value) for value in values]).sum(dim=0)
    buckets = torch.stack([transfer_one_hot(value) for value in values]).sum(dim=0)
    summed, exact = summarize_sums(sums, buckets), summarize(v for v in values if v is not None)
    assert summed is not None
    assert exact is not None
    assert summed.share == exact.share == 0.4
    assert summed.mean == pytest.approx(exact.mean)
    assert summed.mean_positive == pytest.approx(exact.mean_positive)
    assert exact.worst <= summed.worst <= exact.worst + 0.05
    nobody = transfer_sums(None), transfer_one_hot(None)
    assert summarize_sums(*nobody) is None


def test_a_silo_compares_nats_per_token_with_its_own_baseline() -> None:
    assert own_transfer(Score(nll=20.0, tokens=10.0), 5.0) == pytest.approx(2 - math.log(5))
    assert own_transfer(Score(nll=20.0, tokens=10.0), None) is None
    assert own_transfer(Score(), 5.0) is None


@pytest.mark.parametrize("local", [1.2185133957898617, 1.4283038003314177, 1.0763207058535729])
def test_who_does_exactly_as_well_alone_is_not_harmed_by_rounding(local: float) -> None:
    """A silo whose own expert predicts by itself has its local baseline, up to the last bits."""
    for bits in (-3, -1, 0, 1, 3):
        nats = math.log(local) + bits * math.ulp(1.0)
        assert own_transfer(Score(nll=100 * nats, tokens=100.0), local) == 0.0
        assert negative_transfer({"a": math.exp(nats)}, {"a": local}) == {"a": 0.0}
    assert negative_transfer({"a": local * 1.000001}, {"a": local})["a"] > 0


def test_round_trip(tmp_path: Path) -> None:
    baselines = Baselines({"a": Baseline(3.0, 2.5, 100), "b": Baseline(4.0)}, {"total-steps": 200})
    assert read_baselines(written(tmp_path, baselines.to_json()), ["a", "b"]) == baselines


def test_the_early_stopped_baseline_is_the_honest_one() -> None:
    assert Baselines({"a": Baseline(3.0, 2.5), "b": Baseline(4.0, 3.5)}).references() == {
        "a": 2.5,
        "b": 3.5,
    }


def test_kinds_of_baseline_are_not_mixed() -> None:
    mixed = Baselines({"a": Baseline(3.0, 2.5), "b": Baseline(4.0)})
    assert mixed.references() == {"a": 3.0, "b": 4.0}


def test_missing_file_names_setting_and_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"local-baseline-json = .*none\.json.*local baselines"):
        read_baselines(tmp_path / "none.json")


def test_missing_clients_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"clients": {"silo-00": {"ppl": 3}}})
    with pytest.raises(DataError, match=r"no baseline for silo-01, silo-02; it knows silo-00"):
        read_baselines(path, ["silo-02", "silo-00", "silo-01"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([1], "must hold"),
        ({"silo-00": {"ppl": 3}}, "must hold"),
        ({"clients": {}}, "is empty"),
        ({"clients": {"silo-00": 3}}, "client silo-00"),
        ({"clients": {"silo-00": {"perplexity": 3}}}, "client silo-00"),
        ({"clients": {"silo-00": {"ppl": None}}}, '"ppl" must not be null'),
        ({"clients": {"silo-00": {"ppl": "3"}}}, "client silo-00"),
        ({"clients": {"silo-00": {"ppl": 0.5}}}, "at least 1"),
        ({"clients": {"silo-00": {"ppl": True}}}, "at least 1"),
        ({"clients": {"silo-00": {"ppl": float("nan")}}}, "finite"),
        ({"clients": {"silo-00": {"ppl": 3, "ppl_early_stopped": -1}}}, "ppl_early_stopped"),
        ({"clients": {"silo-00": {"ppl": 3, "tokens": "many"}}}, "tokens"),
        ({"clients": {"silo-00": {"ppl": 3}}, "settings": 7}, "settings"),
    ],
)
def test_wrong_schema_says_what_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_baselines(written(tmp_path, content))
