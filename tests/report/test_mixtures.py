"""What a run's folder says of mixtures, and what a user may write for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.mixtures import SHARE, living, of_client, parse, prior
from fedvemoe_app.report.rows import ClientRow, RoundRow


def client(weights: list[float] | None, **more: Any) -> ClientRow:
    row = {"round": 1, "client": "silo-00", "responsibilities": weights, "tasks": [], **more}
    return cast(ClientRow, row)


def run_of(*clients: ClientRow, rounds: tuple[dict[str, Any], ...] = ()) -> Run:
    rows = [cast(RoundRow, row) for row in rounds]
    return Run(Path("runs/one"), {}, {}, rows, [], list(clients), [], None)


def test_a_silos_mixture_is_the_shared_part_renormalised() -> None:
    found = of_client(run_of(client([0.2, 0.0, 0.2, 0.6], share=0.1)), "silo-00", [0, 1, 2])
    assert found.weights == {0: pytest.approx(0.5), 2: pytest.approx(0.5)}
    assert found.share == 0.1


def test_a_run_without_shares_has_the_default() -> None:
    assert of_client(run_of(client([1.0])), "silo-00", [0]).share == SHARE
    assert of_client(run_of(client([1.0], share=0.0)), "silo-00", [0]).share == 0.0


def test_the_prior_is_the_last_one_known() -> None:
    rounds = ({"prior": [0.5, 0.5, 0.0]}, {"prior": [0.25, 0.5, 0.25]}, {"prior": None})
    found = prior(run_of(rounds=rounds), [0, 2])
    assert found.weights == {0: 0.5, 2: 0.5}
    assert prior(run_of(), [3, 4]).weights == {3: 0.5, 4: 0.5}


WRONG: dict[str, tuple[Run, str]] = {
    "nobody reported": (run_of(), "aggregate"),
    "another silo": (run_of(client([1.0])), "silo-00"),
    "only a private expert": (run_of(client([0.0, 0.0, 1.0])), "no shared expert"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_silo_without_a_mixture_is_refused(what: str) -> None:
    run, reason = WRONG[what]
    name = "silo-01" if what == "another silo" else "silo-00"
    with pytest.raises(RunError, match=reason):
        of_client(run, name, [0, 1])


def test_weights_are_read_and_normalised() -> None:
    found = parse("0=7, 2=3,1=0", [0, 1, 2], 0.2)
    assert found.weights == {0: pytest.approx(0.7), 2: pytest.approx(0.3)}
    assert found.share == 0.2
    assert parse(str(found), [0, 1, 2], 0.2) == found
    assert parse("base", [0]).weights == {}
    assert str(parse("base", [0])) == "base"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0:1", "slot=weight"),
        ("", "slot=weight"),
        ("0=many", "slot=weight"),
        ("5=1", "no expert 5; the run has 0, 1"),
        ("0=-1", "at least 0"),
        ("0=nan", "at least 0"),
        ("0=0", "every weight is 0"),
    ],
)
def test_a_wrong_mixture_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        parse(text, [0, 1])
    with pytest.raises(SettingError, match="share"):
        parse("0=1", [0, 1], 1.5)


def test_a_run_that_has_not_ended_has_no_experts(ended_run: Run, tmp_path: Path) -> None:
    assert list(living(ended_run.folder)) == [0, 1]
    with pytest.raises(RunError, match=r"config\.json"):
        living(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="holds no experts"):
        living(tmp_path)
