"""The worker's side: answer one message at a time until there is a reason to leave.

It leaves when nobody has asked for long, when its owner has ended, when whoever waits for an answer
has gone, or when it is asked to serve on other terms. A failure of the function it calls is an
answer like any other.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait

from filelock import FileLock, Timeout

from fedvemoe_app.worker import line
from fedvemoe_app.worker.place import Owner, Place

WATCH_SECONDS = 0.5
WAITING_DOORS = 16
PREDECESSOR_SECONDS = 60
"""How long a new worker waits for the one before it, and its memory, to be gone."""

GONE = (EOFError, OSError)
"""What a connection raises whose other end has gone."""

log = logging.getLogger("fedvemoe")
Handler = Callable[[list[bytes]], line.Parts]


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker does: ``handler`` is called by name, for whoever greets with ``terms``."""

    handler: str
    terms: str
    idle: float


def live(place: Place, owner: Owner, service: Service) -> None:
    """Be the one worker of a place; returns where another one does not leave it."""
    try:
        living = FileLock(place.living)
        living.acquire(timeout=PREDECESSOR_SECONDS)
    except Timeout:
        log.error("another worker does not leave %s", place.folder)
        return
    place.closed()  # one that was killed has left it
    watch = Watch(place, owner, service.idle)
    with Listener(
        str(place.socket), "AF_UNIX", backlog=WAITING_DOORS, authkey=place.key.read_bytes()
    ) as listener:
        watch.start()
        log.info("worker %d serves %s", os.getpid(), place.folder)
        while True:
            with suppress(*GONE), _accepted(listener) as door:
                _serve(door, service, watch)


def _accepted(listener: Listener) -> Connection:
    """Return the next door that knows the key."""
    while True:
        with suppress(*GONE, AuthenticationError, AssertionError):
            return listener.accept()


def _serve(door: Connection, service: Service, watch: Watch) -> None:
    """Answer one message of one door."""
    watch.busy()
    try:
        if door.recv_bytes() != service.terms.encode():
            door.send_bytes(line.OTHER)
            watch.leave("it is to serve on other terms")
        door.send_bytes(line.WELCOME)
        parts = line.receive(door)
        watch.waiting(door)
        answer = _handled(service.handler, parts)
        watch.waiting(None)
        line.send(door, answer)
    finally:
        watch.free()


def _handled(name: str, parts: list[bytes]) -> line.Parts:
    """Call the function; what it raises is told, and the worker lives on."""
    try:
        handler: Handler = pkgutil.resolve_name(name)
        return [line.DONE, *handler(parts)]
    except Exception as error:
        log.exception("a message failed")
        return [line.FAILED, f"{type(error).__name__}: {error}".encode()]


class Watch(threading.Thread):
    """Ends the process, in the middle of whatever it does, when there is a reason to."""

    def __init__(self, place: Place, owner: Owner, idle: float) -> None:
        super().__init__(name="watch", daemon=True)
        self._place, self._owner, self._idle = place, owner, idle
        self._lock = threading.Lock()
        self._free_since: float | None = time.monotonic()
        self._door: Connection | None = None

    def busy(self) -> None:
        """Note that a door is open."""
        with self._lock:
            self._free_since = None

    def free(self) -> None:
        """Note that the door is closed."""
        with self._lock:
            self._free_since, self._door = time.monotonic(), None

    def waiting(self, door: Connection | None) -> None:
        """Note who waits for an answer, and says nothing until it comes."""
        with self._lock:
            self._door = door

    def run(self) -> None:
        """Look around, again and again."""
        while True:
            time.sleep(WATCH_SECONDS)
            with self._lock:
                reason = self._reason()
                if reason:
                    self.leave(reason)

    def _reason(self) -> str:
        if not self._owner.lives:
            return f"process {self._owner.pid}, which it belongs to, has ended"
        if self._door is not None and wait([self._door], 0):
            return "nobody waits for its answer any more"
        if self._free_since is not None and time.monotonic() - self._free_since > self._idle:
            return f"nobody has asked for {self._idle:.0f} s"
        return ""

    def leave(self, reason: str) -> None:
        """End this process at once; the system takes back its memory and its locks."""
        log.info("worker %d ends: %s", os.getpid(), reason)
        self._place.closed()
        os._exit(0)
