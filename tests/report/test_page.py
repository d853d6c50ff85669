"""The page of a run: it holds everything, loads nothing, and no name in it can be markup."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedvemoe_app.cli.main import app
from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import RunError
from fedvemoe_app.report.journal import Run, read_run
from fedvemoe_app.report.markup import joined, tag
from fedvemoe_app.report.page import page, write_page
from fedvemoe_app.report.plots import draw_all
from fedvemoe_app.report.wording import size
from tests.report.synthetic import make_run

EVIL = '<script>alert("1")</script>'


class Reader(HTMLParser):
    """Collects tags, attributes, text, and checks that every element is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += attributes
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        self.texts.append(text)

    @property
    def headings(self) -> list[str]:
        return [name for key, name in self.attributes if key == "href" and name]


def named(run: Run, name: str) -> Run:
    """Put ``name`` wherever a name can come from."""
    changed: dict[str, Any] = {
        "config": {**run.config, "dataset-name": name, name: 1},
        "manifest": {"started": name, "versions": {name: name}},
        "clients": [
            {**row, "client": name, "category": name, "tasks": [name]} for row in run.clients
        ],
        "tasks": [{**row, "task": name, "category": name} for row in run.tasks],
        "events": [
            {**row, "event": name, "why": name, "numbers": {name: name}} for row in run.events
        ],
        "rounds": [{**row, "strategy": name, "seconds": {name: 1.0}} for row in run.rounds],
    }
    return replace(run, **changed)


def test_a_full_run_has_every_section(tmp_path: Path) -> None:
    run = make_run(tmp_path, lifecycle=True, settings={"k-init": 7})
    read = Reader(page(run, draw_all(run)))
    sections = "pictures silos tasks events rounds cost settings versions-and-fingerprints"
    assert read.headings == [f"#{name}" for name in sections.split()]
    assert {"no silo would miss it", "silo-04", "task004_dialogue"} <= set(read.texts)
    assert read.tags.count("img") == 4
    assert "perplexity, worst silo" in read.texts


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, lifecycle=True)
    content = page(run, draw_all(run))
    for key, value in Reader(content).attributes:
        if key in ("src", "href", "srcset", "action", "data"):
            assert (value or "").startswith(("data:image/png;base64,", "#"))
    assert "url(" not in content
    assert "@import" not in content


def test_the_page_allows_its_own_script_and_no_other(tmp_path: Path) -> None:
    content = page(make_run(tmp_path), [])
    (script,) = re.findall(r"<script>(.*?)</script>", content, flags=re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in content


def test_no_name_is_ever_markup(tmp_path: Path) -> None:
    run = named(make_run(tmp_path, lifecycle=True), EVIL)
    read = Reader(page(run, []))
    assert read.tags.count("script") == 1
    assert read.texts.count(EVIL) > 10


def test_markup_escapes_children_and_attributes() -> None:
    assert (
        tag("p", "<b>", tag("b", "x"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<b>x</b></p>'
    )
    assert joined("&", tag("br")) == "&amp;<br>"
    assert tag("td", 3, class_=None, data_v=3) == '<td data-v="3">3</td>'


def test_changed_settings_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, settings={**RunConfig().to_flat(), "k-init": 7})
    content = page(run, [])
    changed, rest = content.split("settings at defaults")
    assert ">k-init<" in changed
    assert ">k-max<" not in changed
    assert ">k-max<" in rest


def test_aggregate_reporting_names_no_silo(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=False, counted=True)
    read = Reader(page(run, draw_all(run)))
    assert "#silos" not in read.headings
    assert not any("silo-0" in text for text in read.texts)


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "has not ended" not in page(run, [])
    assert "has not ended" in page(replace(run, summary=None), [])


def test_a_run_that_never_began_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    nothing = replace(run, rounds=[], clients=[], tasks=[], events=[], manifest={}, summary=None)
    assert Reader(page(nothing, [])).headings == ["#settings"]


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    done = CliRunner().invoke(app, ["report", str(run.folder)])
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output
    content = (run.folder / "report.html").read_text(encoding="utf-8")
    assert content.startswith("<!DOCTYPE html>")
    assert Reader(content).tags.count("img") == 4


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    (run.folder / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html cannot be written"):
        write_page(read_run(run.folder), [])


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_700, "1 MB"), (4.2e9, "4.2 GB")],
)
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown
