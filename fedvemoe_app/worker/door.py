"""The door's side: find the worker, start one where there is none, hand it a message.

Two doors that start at once end with one worker. A worker that dies over a message costs that
message: it is not tried again, for what killed the first would kill the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path

from filelock import FileLock

import fedvemoe_app
from fedvemoe_app.errors import RunError
from fedvemoe_app.worker import line
from fedvemoe_app.worker.place import Owner, Place, place_of
from fedvemoe_app.worker.resident import PREDECESSOR_SECONDS, Service

START_SECONDS = PREDECESSOR_SECONDS + 60
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Door:
    """The way to one worker, which is started by the first message.

    Parameters
    ----------
    place
        Where it is reached.
    owner
        It ends with this process.
    service
        What it does; a worker of other terms is replaced.

    """

    place: Place
    owner: Owner
    service: Service

    def ask(self, parts: line.Parts) -> list[bytes]:
        """Return the worker's answer to a message.

        Raises
        ------
        RunError
            Where no worker can be started, the worker died over the message, or its function
            failed.
        """
        with self._open() as worker:
            try:
                line.send(worker, parts)
                verdict, *answer = line.receive(worker)
            except (EOFError, OSError) as error:
                raise RunError(
                    "the worker of this silo ended over this message (killed, or out of memory?); "
                    "the next message starts another"
                ) from error
        if verdict == line.FAILED:
            raise RunError(answer[0].decode())
        return answer

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        """Yield a connection to a worker that serves on these terms."""
        with self._greeted() or self._started() as worker:
            yield worker

    def _greeted(self, *, stranger: bool = True) -> Connection | None:
        """Return a connection to the worker that is there; None where none is there to serve.

        One with another key is no worker of ours; AuthenticationError unless ``stranger``.
        """
        try:
            worker = Client(str(self.place.socket), "AF_UNIX", self.place.key.read_bytes())
            worker.send_bytes(self.service.terms.encode())
            if worker.recv_bytes() == line.WELCOME:
                return worker
            worker.close()
        except AuthenticationError:
            if not stranger:
                raise
        except (EOFError, OSError):
            return None
        return None

    def _started(self) -> Connection:
        """Start a worker unless another door just did; return a connection to it."""
        with FileLock(self.place.starting):
            try:
                there = self._greeted(stranger=False)
            except AuthenticationError:
                raise RunError(
                    f"what listens at {self.place.socket} does not know the key beside it: end it"
                ) from None
            if there:
                return there
            self.place.new_key()
            process = self._spawned()
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                if worker := self._greeted():
                    return worker
                time.sleep(POLL_SECONDS)
        process.kill()
        raise RunError(
            "the worker of this silo did not start: its log is the SuperNode's; worker = false in "
            "the node config does without one"
        )

    def _spawned(self) -> subprocess.Popen[bytes]:
        """Start a process that outlives this one and logs where this one does."""
        root = str(Path(fedvemoe_app.__file__).parents[1])
        paths = [root, *(path for path in sys.path if path)]
        words = {
            "folder": self.place.folder,
            "handler": self.service.handler,
            "terms": self.service.terms,
            "idle": self.service.idle,
            "owner": self.owner.pid,
            "born": self.owner.born,
        }
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "fedvemoe_app.worker"),
                *(f"--{name}={value}" for name, value in words.items()),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def door_of(service: Service, owner: Owner, name: str, folder: str = "") -> Door:
    """Return the door to an owner's worker of a name; RunError as ``place_of``."""
    return Door(place_of(owner, name, folder), owner, service)
