"""Puts the cells and outputs of a notebook into the page that asks for them.

A page says ``<!-- notebook: FILE.ipynb -->``. Outputs are those in the file: building the site
runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ASKED = re.compile(r"^<!-- notebook: (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page with notebooks in place (called by mkdocs)."""
    folder = Path(page.file.abs_src_path).parent
    return ASKED.sub(lambda found: rendered(folder / found[1]), markdown)


def rendered(notebook: Path) -> str:
    """Return a notebook as Markdown: text as it is, code and outputs as blocks."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield from _output(output)


def _output(output: dict[str, Any]) -> Iterator[str]:
    if output["output_type"] == "stream":
        yield _block("".join(output["text"]))
        return
    data = output["data"]
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        yield f'<img alt="output of the cell above" src="data:image/png;base64,{image}">'
    elif "text/plain" in data:
        yield _block("".join(data["text/plain"]))


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
