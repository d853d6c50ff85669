"""A silo that was not there: its weights, what the bank is worth to it, and whether one fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedvemoe_app.api import LoadedRun, load_run
from fedvemoe_app.em.gain import Gain
from fedvemoe_app.errors import DataError
from fedvemoe_app.onboarding import THRESHOLD, Onboarding
from fedvemoe_app.report.journal import Run
from tests.federation import DEFINITION, questions


@pytest.fixture(scope="module")
def loaded(ended_run: Run) -> Iterator[LoadedRun]:
    with load_run(ended_run.folder) as run:
        yield run


@pytest.fixture(scope="module")
def known(loaded: LoadedRun, small_bank: Path) -> Onboarding:
    """One of the houses of the run comes again."""
    return loaded.onboard(small_bank / "code_0.json", regret=False)


@pytest.fixture(scope="module")
def stranger(loaded: LoadedRun, tmp_path_factory: pytest.TempPathFactory) -> Onboarding:
    """A silo that answers like no house."""
    rows = [
        {"id": str(i), "input": t, "output": ["oak elm oak elm"]} for i, t in enumerate(questions())
    ]
    file = tmp_path_factory.mktemp("stranger") / "odd.json"
    file.write_text(json.dumps({"Definition": [DEFINITION], "Instances": rows}))
    return loaded.onboard(file)


def test_every_way_of_predicting_has_its_line(known: Onboarding) -> None:
    assert [line.name for line in known.lines] == ["0", "1", "mixture", "base"]
    assert sum(line.weight or 0.0 for line in known.lines) == pytest.approx(1.0)
    assert known.mixture.weights[known.best] == max(known.mixture.weights.values())
    assert known.tasks == ("code_0",)
    mixture, base = known.lines[2:]
    assert (mixture.test.examples, mixture.test.tokens) == (1, base.test.tokens)
    assert known.gain.nats == pytest.approx(base.probe_nats - mixture.probe_nats)


def test_a_house_of_the_run_gains(known: Onboarding) -> None:
    assert known.gain.exceeds(THRESHOLD)
    assert "The bank helps" in known.verdict[0]
    assert "not examined" in known.verdict[1]
    assert (known.regret, known.fits) == (None, None)
    mixture, base = known.lines[2:]
    assert (mixture.test.ppl or 0) < (base.test.ppl or 0)


def test_a_stranger_is_told_that_no_expert_fits(stranger: Onboarding) -> None:
    assert stranger.regret is not None
    assert stranger.regret.exceeds(THRESHOLD)
    assert stranger.fits is False
    assert "No expert fits" in stranger.verdict[1]
    share = stranger.gain.nats / (stranger.gain.nats + stranger.regret.nats)
    assert f"brings {max(0.0, share):.1%}" in stranger.verdict[1]


def test_nothing_is_left_of_it(loaded: LoadedRun, stranger: Onboarding, ended_run: Run) -> None:
    with load_run(ended_run.folder) as fresh:
        expected, found = fresh._bank.experts.state(), loaded._bank.experts.state()
    assert stranger.regret is not None
    assert all((expected[name] == found[name]).all() for name in expected)


def test_the_verdict_follows_the_numbers(known: Onboarding) -> None:
    def verdict(gain: Gain, regret: Gain) -> tuple[str, str]:
        return replace(known, gain=gain, regret=regret).verdict

    assert "The bank harms" in verdict(Gain(-0.5, 0.1), Gain(0, 1))[0]
    assert "makes no difference" in verdict(Gain(0.05, 0.1), Gain(0, 1))[0]
    assert "No expert fits" in verdict(Gain(0.5, 0.1), Gain(0.02, 0.01))[1]
    for regret in (Gain(0.02, 0.03), Gain(0.005, 0.001), Gain(-0.3, 0.01)):
        assert "An expert fits" in verdict(Gain(0.5, 0.1), regret)[1]


def test_its_mixture_answers_afterwards(loaded: LoadedRun, known: Onboarding) -> None:
    content = known.to_json()
    assert json.loads(json.dumps(content))["verdict"] == list(known.verdict)
    loaded.generate("ash birch", mixture=content["mixture"])
    loaded.generate("ash birch", mixture=known.mixture)


def test_what_is_no_bank_is_refused(loaded: LoadedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"):
        loaded.onboard(tmp_path / "none")
