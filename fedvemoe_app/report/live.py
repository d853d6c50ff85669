"""Shows a run while another process makes it: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedvemoe_app.report.progress import FILE, State, Tail, advance
from fedvemoe_app.report.wording import duration


def follow(
    folder: Path,
    console: Console,
    running: Callable[[], bool] = lambda: True,
    interval: float = 0.2,
) -> State:
    """Show the run in ``folder`` until it has ended or ``running`` says no; return its state.

    A state that is still "running" means that the writer is gone without a last word.
    """
    tail = Tail(folder / FILE)
    if not console.is_terminal:
        return _follow(tail, _Lines(console), running, interval)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return _follow(tail, _Screen(live), running, interval)


def line(state: State) -> str:
    """Return the state in one line."""
    parts = [f"round {state.round}/{state.rounds}"]
    if state.ppl is not None:
        parts.append(f"ppl {state.ppl:.3f}")
    if state.ppl_worst is not None:
        parts.append(f"worst silo {state.ppl_worst:.3f}")
    if state.outcome == "running" and state.seconds_left is not None:
        parts.append(f"about {duration(state.seconds_left)} left")
    return "  ".join(parts)


def picture(state: State) -> Table:
    """Return the state as one row: phase, silos that have replied, and the line."""
    row = Table.grid(padding=(0, 2))
    silos = Text(f"{state.done}/{state.expected} silos {state.silo}".rstrip())
    bar = ProgressBar(total=max(1, state.expected), completed=state.done, width=20)
    row.add_row(Text(state.phase or "starting", style="bold"), bar, silos, Text(line(state)))
    return row


class _Lines:
    """One plain line per round, and one per message."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, before: State, after: State) -> None:
        if before.phase and after.round != before.round:
            self.message(line(before))
        if after.phase and after.outcome != before.outcome:
            self.message(line(after))


class _Screen:
    """One live row, with messages above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def message(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def show(self, before: State, after: State) -> None:
        if after != before:
            self._live.update(picture(after), refresh=True)


def _follow(
    tail: Tail, view: _Lines | _Screen, running: Callable[[], bool], interval: float
) -> State:
    state = State()
    while True:
        alive = running()  # asked before the file is read, so that no last line is missed
        for event in tail.read():
            if event.get("event") == "message":
                view.message(str(event.get("text", "")))
            before, state = state, advance(state, event)
            view.show(before, state)
        if state.outcome != "running" or not alive:
            return state
        time.sleep(interval)
