"""The pages of the documentation as a test reads them: headings, links, and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_BASH = re.compile(r"(<!-- run -->\n)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """One command line of a page; ``run`` where the page asks for it to be really run."""

    page: str
    text: str
    run: bool = False

    @property
    def words(self) -> list[str]:
        """The command's words, without a path before the program's name."""
        words = shlex.split(self.text, comments=True)
        return [words[0].rpartition("/")[2], *words[1:]] if words else []

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return _FENCE.sub("", text_of(page))


def command_lines(page: Path) -> Iterator[Line]:
    """Yield the lines of the bash blocks; parts of a line joined by && come one by one."""
    for run, block in _BASH.findall(text_of(page)):
        for line in _whole_lines(block.replace("\\\n", " ")):
            for part in line.split(" && "):
                if part.strip() and not part.strip().startswith("#"):
                    yield Line(page.name, part.strip(), bool(run))


def _whole_lines(block: str) -> Iterator[str]:
    """Yield the lines of a block; one whose quotes are open goes on in the next."""
    waiting = ""
    for line in block.splitlines():
        waiting = f"{waiting} {line}".strip()
        try:
            shlex.split(waiting, comments=True)
        except ValueError:
            continue
        yield waiting
        waiting = ""
    assert not waiting, f"quotes are open: {waiting}"


def spoken_commands(page: Path, program: str) -> Iterator[Line]:
    """Yield the commands of ``program`` that stand in the text itself, up to an ellipsis."""
    for span in _INLINE.findall(prose(page)):
        if span.startswith(f"{program} "):
            yield Line(page.name, span.split("...")[0].split(" | ")[0])


def links(page: Path) -> list[str]:
    """Return the targets of a page's links that are not on the web."""
    return [link for link in _LINK.findall(prose(page)) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    return {anchor(heading) for heading in _HEADING.findall(prose(page))}


def anchor(heading: str) -> str:
    """Return the anchor that the site, and GitHub, give to a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip())
