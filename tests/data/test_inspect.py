from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedvemoe_app.data.assign import assign
from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.data.inspect import Report, render, report
from fedvemoe_app.data.task import SPLITS
from tests.data import layouts


@pytest.fixture(params=[False, True], ids=["held", "streamed"])
def found(tmp_path: Path, request: pytest.FixtureRequest) -> Report:
    layouts.write_community(tmp_path, 100)
    poem = layouts.community_task(layouts.records("poem"), Categories=["[b]Poem[/b]"])
    poem["Instances"].append({"input": "no output"})  # type: ignore[attr-defined]
    layouts.write_json(tmp_path / "poem.json", poem)
    bank = open_bank(str(tmp_path), streaming=request.param)
    categories = ["translation", "code"]
    return report(bank, assign(bank.catalogue, mode="keyword", silos=3, categories=categories))


def test_the_report_tells_who_holds_what_and_why(found: Report) -> None:
    lines = {line.card.name: line for line in found.tasks}
    assert lines["to_german"].silos == ("silo-00", "silo-02")
    assert lines["to_code"].silos == ("silo-01",)
    (match,) = lines["to_code"].matches
    assert (match.category, match.keyword, match.field) == ("code", "bash", "definition")
    assert found.unassigned == ("poem",)
    assert ["poem.json, instance 60" in problem.where for problem in found.problems] == [True]


def test_the_counts_of_the_silos_add_up_to_those_of_the_tasks(found: Report) -> None:
    assigned = [line for line in found.tasks if line.silos]
    for split in SPLITS:
        in_silos = sum(line.counts[split] for line in found.silos)
        assert in_silos == sum(line.counts[split] for line in assigned)
    assert sum(sum(line.counts.values()) for line in found.silos) == 200


def test_the_table_shows_all_of_it(found: Report) -> None:
    console = Console(width=240, record=True, file=StringIO())
    render(found, console)
    text = console.export_text()
    for shown in (
        "to_german (1/2)",
        "silo-00, silo-02",
        "code: 'bash' in definition",
        "skipped or changed (1)",
        "field 'output' is missing",
        "poem: 60 instances, matches no category",
    ):
        assert shown in text
