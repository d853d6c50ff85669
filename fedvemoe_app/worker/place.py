"""Where a worker is reached: a private folder that holds its socket, its key and two locks.

Nobody but this user may look into the folder. It carries the number of the process that the
worker belongs to, so that what a dead one has left can be told and swept away.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from fedvemoe_app.errors import RunError

LONGEST = 103
"""Bytes of a socket's path that every system takes: Linux has room for 107, others for 103."""
CLOCK_SECONDS = 60
"""How far two readings of a process's start may differ: somebody may have set the clock."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that a worker belongs to; ``born`` tells it from a later one of its number."""

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return a process that lives now."""
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def lives(self) -> bool:
        """Whether it has not ended; nobody may have collected one that has."""
        try:
            process = psutil.Process(self.pid)
            ended = process.status() == psutil.STATUS_ZOMBIE
            return not ended and abs(process.create_time() - self.born) < CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's folder."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "socket"

    @property
    def key(self) -> Path:
        """What both ends prove to each other that they know."""
        return self.folder / "key"

    @property
    def starting(self) -> Path:
        """Lock of whoever looks for the worker and may start one."""
        return self.folder / "starting"

    @property
    def living(self) -> Path:
        """Lock of the worker, for as long as it lives."""
        return self.folder / "living"

    def new_key(self) -> None:
        """Write another key, for this user's eyes alone."""
        self.key.unlink(missing_ok=True)
        handle = os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))

    def closed(self) -> None:
        """Take the socket away; for the worker alone, which holds the lock of its life."""
        self.socket.unlink(missing_ok=True)


def place_of(owner: Owner, name: str, chosen: str = "") -> Place:
    """Return the place of an owner's worker, made if need be; what dead owners left is removed.

    Parameters
    ----------
    name
        Tells apart workers of one owner.
    chosen
        Absolute path of a folder; where empty: ``$RUNTIME_DIRECTORY`` (set by systemd),
        ``$XDG_RUNTIME_DIR``, or the folder for temporary files.

    Raises
    ------
    RunError
        Where the folder cannot be made, is open to others, or has too long a path.
    """
    base = base_folder(chosen)
    place = Place(base / f"{owner.pid}-{name}")
    length = len(os.fsencode(place.socket))
    if length > LONGEST:
        raise RunError(
            f"the socket {place.socket} has a path of {length} bytes, and {LONGEST} is the most: "
            "set worker-folder to a shorter one"
        )
    _private(base)
    _sweep(base)
    _private(place.folder)
    return place


def base_folder(chosen: str = "") -> Path:
    """Return the folder in which this user's workers have theirs."""
    if chosen and not Path(chosen).is_absolute():
        raise RunError(f"worker-folder = {chosen}: set an absolute path")
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    root = chosen or given or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(root) / f"fedvemoe-{os.getuid()}"


def _private(folder: Path) -> None:
    """Make a folder that only this user may open; RunError where it is there and others may."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RunError(
            f"{folder} cannot be made: {error.strerror}; set worker-folder to a folder that this "
            "user may write to"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RunError(f"{folder} is no folder of this user: remove it, or set worker-folder")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RunError(f"{folder} is open to others: chmod 700 {folder}")


def _sweep(base: Path) -> None:
    """Remove the folders of owners that have ended; their workers end by themselves."""
    for folder in base.iterdir():
        number = folder.name.partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
