"""Every link of the documentation leads somewhere, and so does every pointer into the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, anchor, anchors, links, text_of

POINTER = re.compile(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py)(?:: ([A-Za-z_., ]+))?`")
FILES = [
    file for top in ("fedvemoe_app", "benchmarks", "tests") for file in ROOT.glob(f"{top}/**/*.py")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        file, _, heading = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name}: {link}"
        if heading:
            assert heading in anchors(target), f"{page.name}: {link}"


def test_pages_of_the_site_link_to_pages_of_the_site() -> None:
    for page in DOCS.glob("*.md"):
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            assert target.is_relative_to(DOCS), f"{page.name}: {link} is not on the site"


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    listed = set(re.findall(r": (\w+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE))
    assert listed == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pointers_into_the_code_hold(page: Path) -> None:
    for path, names in POINTER.findall(text_of(page)):
        found = [
            file for file in FILES if f"/{file.relative_to(ROOT).as_posix()}".endswith(f"/{path}")
        ]
        assert found, f"{page.name}: {path}"
        for name in filter(None, names.split(", ")):
            short = name.rpartition(".")[2]
            assert any(re.search(rf"\b{short}\b", text_of(file)) for file in found), (path, name)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("2. Look before you train", "2-look-before-you-train"),
        ("Two sums, and c-min", "two-sums-and-c-min"),
        ("The private slot (`em/private.py`)", "the-private-slot-emprivatepy"),
    ],
)
def test_anchors_are_those_of_the_site(heading: str, expected: str) -> None:
    assert anchor(heading) == expected
