"""The command as a user starts it in a terminal, whatever started the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

FEDVEMOE = Path(sys.executable).with_name("fedvemoe")


def started(*words: str | Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``fedvemoe`` in a folder; what it says, errors too, is its stdout."""
    return subprocess.Popen(
        [FEDVEMOE, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    """Undo what a shell does to a job in the background: it and its children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
