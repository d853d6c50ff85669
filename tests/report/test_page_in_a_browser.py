"""The page of a run in a real browser, where there is one: it fits, sorts and asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedvemoe_app.report.page import write_page
from fedvemoe_app.report.plots import draw_all
from tests.report import browser
from tests.report.synthetic import make_run

pytestmark = pytest.mark.skipif(not browser.PROGRAM, reason="there is no Chromium here")

SORTED = """
[...document.querySelectorAll("th button")].map((button) => {
  const head = button.closest("th"), body = button.closest("table").tBodies[0];
  const read = () => {
    button.click();
    const cells = [...body.rows].map((row) => row.cells[head.cellIndex]);
    const values = cells.map((cell) => cell.dataset.v ?? cell.textContent);
    return [head.getAttribute("aria-sort"), values];
  };
  return [head.className === "number", read(), read()];
})
"""
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DRAWN = "[...document.images].map((image) => image.complete && image.naturalWidth)"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("page"), silos=12, rounds=11, lifecycle=True)
    return write_page(run, draw_all(run))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_shows_every_picture(
    page: browser.Page, path: Path, width: int
) -> None:
    page.open(path, width)
    assert page.value(WIDE) == 0
    sizes = page.value(DRAWN)
    assert len(sizes) == 4
    assert min(sizes) > 1000


def test_every_column_sorts_both_ways_with_the_unknown_last(page: browser.Page, path: Path) -> None:
    page.open(path, 1280)
    columns = page.value(SORTED)
    assert len(columns) > 30
    for number, (up, rising), (down, falling) in columns:
        assert (up, down) == ("ascending", "descending")
        assert sorted(rising) == sorted(falling)
        if number:
            known = [float(value) for value in rising if value != "-"]
            assert known == sorted(known)
            assert [float(v) for v in falling if v != "-"] == known[::-1]
            assert "-" not in (rising[: len(known)] + falling[: len(known)])


def test_it_asks_nobody_and_nothing_is_refused(page: browser.Page, path: Path) -> None:
    before = len(page.requests)
    page.open(path, 1280)
    asked = [url for url in page.requests[before:] if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert page.complaints == []
