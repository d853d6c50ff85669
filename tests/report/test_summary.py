from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fedvemoe_app.report.journal import Run
from fedvemoe_app.report.rows import ClientRow
from fedvemoe_app.report.summary import main_expert, print_summary, recovery
from tests.report.synthetic import make_run


def printed(run: Run, *pictures: Path, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(run, console, pictures)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def changed(run: Run, **fields: object) -> Run:
    rows: list[ClientRow] = [{**row, **fields} for row in run.clients]  # type: ignore[typeddict-item]
    return replace(run, clients=rows)


def test_silos_totals_and_places(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=10)
    shown = printed(run, tmp_path / "worst_client.png")
    row = run.last_clients["silo-03"]
    first = run.first_clients["silo-03"]
    assert f"{first['ppl']:.2f} \N{RIGHTWARDS ARROW} {row['ppl']:.2f}" in shown
    assert "rewriting" in shown
    assert "domains found (NMI)" in shown
    assert str(run.folder) in shown
    assert str(tmp_path / "worst_client.png") in shown


def test_a_silo_is_one_line_on_a_terminal_of_80_columns(tmp_path: Path) -> None:
    lines = printed(make_run(tmp_path, silos=12), width=80).splitlines()
    places = [at for at, line in enumerate(lines) if line.strip().startswith("silo-")]
    assert places == list(range(places[0], places[0] + 12))
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


def test_a_run_that_was_cut_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "has not ended" not in printed(run)
    assert "has not ended" in printed(replace(run, summary=None))


def test_aggregate_reporting_has_totals_only(tmp_path: Path) -> None:
    shown = printed(make_run(tmp_path, full=False, baseline=False))
    assert "Silos" not in shown
    assert "no local baseline" in shown


def test_missing_values_are_dashes(tmp_path: Path) -> None:
    run = make_run(tmp_path, silos=3, baseline=False)
    missing = changed(
        run, ppl=None, rouge_l=None, exact_match=None, responsibilities=None, category=""
    )
    assert "silo-02" in printed(missing)
    assert "- \N{RIGHTWARDS ARROW} -" in printed(missing)


def test_an_empty_run_can_be_printed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "wall time" in printed(replace(run, rounds=[], clients=[], tasks=[]))


def test_recovery_is_one_where_each_domain_has_its_expert(tmp_path: Path) -> None:
    assert recovery(make_run(tmp_path, silos=10)) == pytest.approx(1.0)


def test_recovery_is_nothing_where_all_use_one_expert(tmp_path: Path) -> None:
    run = changed(make_run(tmp_path, silos=10), responsibilities=[1.0, 0.0])
    assert recovery(run) == pytest.approx(0.0)


@pytest.mark.parametrize("fields", [{"domain": ""}, {"responsibilities": None}])
def test_recovery_is_unknown_without_domains_or_responsibilities(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    assert recovery(changed(make_run(tmp_path), **fields)) is None


def test_main_expert(tmp_path: Path) -> None:
    row = make_run(tmp_path).last_clients["silo-01"]
    row["responsibilities"] = [0.2, 0.5, 0.3]
    assert main_expert(row) == (1, 0.5)
