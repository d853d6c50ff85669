"""``report.html``: one run on one page that needs no network, no build step and no server.

Pictures, style and the script that sorts tables are inside. The page's own policy forbids it to
load or run anything else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from fedvemoe_app.errors import RunError
from fedvemoe_app.report import jsonl, page_tables
from fedvemoe_app.report.journal import Run, summarize
from fedvemoe_app.report.markup import Markup, tag
from fedvemoe_app.report.page_look import SCRIPT, STYLE
from fedvemoe_app.report.summary import recovery
from fedvemoe_app.report.wording import change, duration, number, size

FILE = "report.html"
CAPTIONS = {
    "paper_figure.png": "Experts by silo over rounds, their lives, and what the run brought",
    "expert_utilization.png": "Which silo uses which expert, and the share each explains",
    "worst_client.png": "Perplexity of all silos together and of the worst one",
    "negative_transfer.png": "Negative transfer of each silo",
}

BROAD = ("paper_figure.png", "expert_utilization.png")  # pictures that take the page's width


def write_page(run: Run, pictures: Sequence[Path]) -> Path:
    """Write the page into the run's folder and return its path.

    Raises
    ------
    RunError
        Where the folder cannot be written or a picture cannot be read.
    """
    path = run.folder / FILE
    try:
        jsonl.replace(path, page(run, pictures))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    return path


def page(run: Run, pictures: Sequence[Path]) -> str:
    """Return the whole page."""
    shown = [(title, content) for title, content in _sections(run, pictures) if content]
    links = (tag("a", title, href=f"#{_anchor(title)}") for title, _ in shown)
    body = tag(
        "main",
        *_heading(run),
        tag("nav", *links),
        _cards(run),
        *(tag("section", tag("h2", title, id=_anchor(title)), content) for title, content in shown),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{_head(run)}<body>{body}{_script()}</body></html>\n'


def _head(run: Run) -> Markup:
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{run.folder.name} - Fed-VEMoE"),
        tag("style", Markup(STYLE)),
    )


def _script() -> Markup:
    return tag("script", Markup(SCRIPT))


def _heading(run: Run) -> Iterator[Markup]:
    yield tag("h1", run.folder.name)
    started = run.manifest.get("started")
    strategy = summarize(run)["strategy"] or run.config.get("strategy") or "no strategy"
    parts = ["A run of Fed-VEMoE", f"strategy {strategy}"]
    parts += [f"started {started}"] if started else []
    yield tag("p", ", ".join(parts), class_="soft")
    if run.summary is None:
        yield tag("p", "This run has not ended: what follows is as far as it came.", class_="warn")


def _cards(run: Run) -> Markup:
    summary = summarize(run)
    first, last = summary["first"], summary["last"]
    sent = sum((row.get("bytes_up") or 0) + (row.get("bytes_down") or 0) for row in run.rounds)
    share = last["negative_transfer_share"]
    found = recovery(run)
    cards = {
        "perplexity, all silos": change(first["ppl"], last["ppl"]),
        "perplexity, worst silo": change(first["ppl_worst"], last["ppl_worst"]),
        "ROUGE-L": change(first["rouge_l"], last["rouge_l"], 1),
        "exact match": change(first["exact_match"], last["exact_match"], 1),
        "silos worse off than alone": "no baseline" if share is None else f"{share:.0%}",
        "silos": number(summary["silos"], 0),
        "rounds": str(summary["rounds"]),
        "experts alive": number(summary["experts_alive"], 0),
        "domains found (NMI)": None if found is None else f"{found:.2f}",
        "sent, both ways": size(sent),
        "time": duration(summary["wall_seconds"]),
    }
    shown = {name: value for name, value in cards.items() if value is not None}
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in shown.items()),
        class_="cards",
    )


def _sections(run: Run, pictures: Sequence[Path]) -> Iterator[tuple[str, Markup | None]]:
    shown = tag("div", *map(_picture, pictures), class_="pictures")
    yield "Pictures", shown if pictures else None
    yield "Silos", page_tables.silos(run) if run.clients else None
    yield "Tasks", page_tables.tasks(run) if run.tasks else None
    yield "Events", page_tables.events(run) if run.events else None
    yield "Rounds", page_tables.rounds(run) if run.rounds else None
    yield "Cost", page_tables.cost(run) if run.rounds else None
    yield "Settings", page_tables.settings(run) if run.config else None
    yield "Versions and fingerprints", page_tables.facts(run) if run.manifest else None


def _picture(path: Path) -> Markup:
    data = b64encode(path.read_bytes()).decode()
    alt = CAPTIONS.get(path.name, path.stem)
    kind = "broad" if path.name in BROAD else None
    return tag("figure", tag("img", src=f"data:image/png;base64,{data}", alt=alt), class_=kind)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
