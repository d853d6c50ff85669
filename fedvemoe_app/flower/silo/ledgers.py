"""A silo's ledger of secure sums on its own disk: what no later run may make it do again.

One file for all runs, ``secagg.ledger`` in ``state-path``, sealed under the identity key: who
changes it is found out. It is written before a reply leaves, where a step added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from flwr.app import Context

from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.flower.messages.consent import simulated
from fedvemoe_app.flower.shelf import replace_bytes
from fedvemoe_app.flower.silo.node import NodeSettings
from fedvemoe_app.secagg.client import Client
from fedvemoe_app.secagg.errors import SecAggRefusal

FILE, LOCK = "secagg.ledger", "secagg.lock"
SECONDS = 600.0
"""How long one run's step waits for another's at the same silo."""


@contextmanager
def lasting_ledger(context: Context, client: Client) -> Iterator[None]:
    """Let a silo's end go by its ledger on disk during a step, and write what the step adds.

    Without ``state-path``, and in a simulation, the memory of a run is all there is.

    Raises
    ------
    SettingError
        Where the ledger cannot be opened or written: a silo that cannot remember does not go on.
    """
    place = None if simulated(context) else NodeSettings.of(context.node_config).own_state
    if place is None:
        yield
        return
    with _alone(place):
        before = _joined(client, place / FILE)
        yield
        if added := client.ledger(before):
            replace_bytes(place / FILE, added)


def _joined(client: Client, file: Path) -> bytes:
    """Let the silo's end know the ledger in a file; return what the file holds."""
    known = b""
    if file.exists():
        try:
            known = client.join(file.read_bytes())
        except (OSError, SecAggRefusal) as error:
            raise SettingError(
                f"{file} cannot be opened ({error}): it was changed, or is of another identity "
                "key; with a new key, move it away"
            ) from error
    return known


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep steps of other runs at this silo from the ledger."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(place / LOCK)
        lock.acquire(timeout=SECONDS)
    except Timeout:
        raise RunError(f"{place / LOCK} is held by another run at this silo") from None
    except OSError as error:
        raise SettingError(
            f"state-path = {place} of this silo cannot be written: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()
