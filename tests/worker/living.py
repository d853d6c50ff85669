"""The workers that live on this machine, as the system sees them."""

from __future__ import annotations

from contextlib import suppress

import psutil


def workers(folder: object) -> list[psutil.Process]:
    """Return the workers whose place is under a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if "fedvemoe_app.worker" in words and str(folder) in " ".join(words) and not zombie:
                found.append(process)
    return found


def end_workers(folder: object) -> None:
    """Kill them, and wait until they have gone."""
    for process in workers(folder):
        with suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(60)
