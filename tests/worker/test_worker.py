"""A worker through its door: one of it, for one owner, that outlives failures and no owner.

Each of these turned a test here red: no lock around the start; no check of the folder's rights; the
handler's exception let out; a stale socket left in place; no watch on owner, client and idleness;
the key not asked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from fedvemoe_app.errors import RunError
from fedvemoe_app.worker.door import Door, door_of
from fedvemoe_app.worker.place import LONGEST, Owner, place_of
from fedvemoe_app.worker.resident import Service
from tests.worker.living import end_workers, workers

HANDLERS = "tests.worker.handlers:"
PATIENCE = 60.0


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder with a short path; whoever works there is ended after the test."""
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        yield Path(folder)
        end_workers(folder)


def door(base: Path, handler: str = "own", **changes: object) -> Door:
    given = {"terms": "these", "idle": 60.0, "owner": Owner.of(os.getpid()), **changes}
    service = Service(HANDLERS + handler, str(given["terms"]), float(str(given["idle"])))
    owner = given["owner"]
    assert isinstance(owner, Owner)
    return door_of(service, owner, "0", str(base))


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def asking(base: Path) -> Iterator[Callable[..., Future[list[bytes]]]]:
    """Ask in a thread; who still waits at the end waits for a worker that is ended."""
    with ThreadPoolExecutor() as pool:
        yield lambda door, *parts: pool.submit(door.ask, parts)
        end_workers(base)


def test_one_worker_answers_message_after_message(base: Path) -> None:
    first, second = door(base).ask([b"one"]), door(base).ask([b"two", b""])
    assert first[0] == second[0] != str(os.getpid()).encode()
    assert (first[1:], second[1:]) == ([b"1", b"one"], [b"2", b"two", b""])
    assert len(workers(base)) == 1


def test_a_large_message_arrives_bit_for_bit(base: Path) -> None:
    large = os.urandom(7 * 2**20 + 1)
    assert door(base).ask([large, b"end"])[2:] == [large, b"end"]


def test_what_a_handler_raises_is_an_answer_and_the_worker_lives(base: Path) -> None:
    before = door(base, "picky").ask([b"good"])
    with pytest.raises(RunError, match="ValueError: bad things do not go"):
        door(base, "picky").ask([b"bad"])
    assert door(base, "picky").ask([b"good"])[0] == before[0]


def test_a_handler_that_is_not_there_is_an_answer_too(base: Path) -> None:
    with pytest.raises(RunError, match="no attribute 'nobody'"):
        door(base, "nobody").ask([])


def test_a_killed_worker_costs_its_message_and_the_next_starts_another(
    base: Path, asking: Callable[..., Future[list[bytes]]]
) -> None:
    begun = base / "begun"
    answer = asking(door(base, "slow"), str(begun).encode())
    until(lambda: begun.exists() and begun.read_text())
    killed = begun.read_text()
    os.kill(int(killed), signal.SIGKILL)
    with pytest.raises(RunError, match="ended over this message"):
        answer.result(PATIENCE)
    begun.with_suffix(".end").touch()
    again = door(base, "slow").ask([str(begun).encode()])
    assert again[1] == b"1"
    assert again[0].decode() != killed
    assert len(workers(base)) == 1


def test_a_worker_that_ends_itself_costs_its_message(base: Path) -> None:
    first = door(base, "deadly").ask([b"live"])
    with pytest.raises(RunError, match="ended over this message"):
        door(base, "deadly").ask([b"die"])
    assert door(base, "deadly").ask([b"live"])[0] != first[0]


def test_the_socket_of_a_dead_worker_is_no_obstacle(base: Path) -> None:
    one = door(base)
    (pid, *_) = one.ask([])
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: not workers(base))
    assert one.place.socket.exists()
    assert door(base).ask([])[0] != pid


def test_doors_that_start_at_once_end_with_one_worker(
    base: Path, asking: Callable[..., Future[list[bytes]]]
) -> None:
    answers = [asking(door(base), b"x") for _ in range(4)]
    pids = {answer.result(PATIENCE)[0] for answer in answers}
    assert len(pids) == 1
    assert [str(process.pid).encode() for process in workers(base)] == list(pids)


def test_one_message_at_a_time(base: Path, asking: Callable[..., Future[list[bytes]]]) -> None:
    begun, other = base / "begun", base / "other"
    other.with_suffix(".end").touch()
    first = asking(door(base, "slow"), str(begun).encode())
    until(begun.exists)
    second = asking(door(base, "slow"), str(other).encode())
    time.sleep(0.3)
    assert not other.exists()
    begun.with_suffix(".end").touch()
    assert (first.result(PATIENCE)[1], second.result(PATIENCE)[1]) == (b"1", b"2")


def test_an_idle_worker_ends_and_leaves_no_socket(base: Path) -> None:
    one = door(base, idle=0.2)
    (pid, *_) = one.ask([])
    until(lambda: not workers(base))
    assert not one.place.socket.exists()
    assert one.ask([])[0] != pid


def test_a_worker_ends_with_its_owner_even_over_a_message(
    base: Path, asking: Callable[..., Future[list[bytes]]]
) -> None:
    begun = base / "begun"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        one = door(base, "slow", owner=Owner.of(parent.pid))
        answer = asking(one, str(begun).encode())
        until(begun.exists)
        parent.kill()  # and nobody collects it: it stays as a zombie
        until(lambda: not workers(base))
        with pytest.raises(RunError, match="ended over this message"):
            answer.result(PATIENCE)
    door(base).ask([])
    assert not one.place.folder.exists()


def test_a_worker_ends_when_nobody_waits_for_its_answer(base: Path) -> None:
    begun = base / "begun"
    code = (
        "import sys; from tests.worker.test_worker import door; from pathlib import Path\n"
        "from fedvemoe_app.worker.place import Owner\n"
        "one = door(Path(sys.argv[1]), 'slow', owner=Owner.of(int(sys.argv[2])))\n"
        "one.ask([sys.argv[3].encode()])"
    )
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", code, str(base), str(os.getpid()), str(begun)]
    with subprocess.Popen(words, cwd=root) as client:
        until(begun.exists)
        client.kill()
    until(lambda: not workers(base))


def test_a_worker_of_other_terms_is_replaced(base: Path) -> None:
    first = door(base, terms="these").ask([])
    other = door(base, terms="others").ask([])
    assert other[0] != first[0]
    assert other[1] == b"1"
    assert [str(process.pid).encode() for process in workers(base)] == [other[0]]


def test_who_does_not_know_the_key_is_not_served(base: Path) -> None:
    one = door(base)
    pid = one.ask([])[0]
    with pytest.raises(AuthenticationError):
        Client(str(one.place.socket), "AF_UNIX", b"guessed")
    assert one.place.key.stat().st_mode & 0o777 == 0o600
    assert one.place.socket.stat().st_mode & 0o077 == 0
    assert one.ask([])[:2] == [pid, b"2"]


def test_who_sends_no_greeting_does_not_end_the_worker(base: Path) -> None:
    one = door(base)
    pid = one.ask([])[0]
    Client(str(one.place.socket), "AF_UNIX", one.place.key.read_bytes()).close()
    with Client(str(one.place.socket), "AF_UNIX") as stranger:
        stranger.send_bytes(b"noise")
    assert one.ask([])[0] == pid


def test_a_worker_with_another_key_is_said(base: Path) -> None:
    one = door(base)
    one.ask([])
    one.place.new_key()
    with pytest.raises(RunError, match="does not know the key beside it"):
        one.ask([])


def test_a_worker_that_cannot_start_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"did not start.*worker = false"):
        door(base).ask([])


def test_a_folder_that_others_may_open_is_refused(base: Path) -> None:
    place = place_of(Owner.of(os.getpid()), "0", str(base))
    for folder in (place.folder, place.folder.parent):
        folder.chmod(0o750)
        with pytest.raises(RunError, match=f"{folder} is open to others: chmod 700"):
            door(base)
        folder.chmod(0o700)
    assert door(base).ask([])[1] == b"1"


def test_a_link_is_no_folder(base: Path) -> None:
    (base / "elsewhere").mkdir(mode=0o700)
    place_of(Owner.of(os.getpid()), "0", str(base)).folder.parent.rename(base / "moved")
    (base / f"fedvemoe-{os.getuid()}").symlink_to(base / "elsewhere")
    with pytest.raises(RunError, match="is no folder of this user"):
        door(base)


def test_a_path_too_long_for_a_socket_is_refused(base: Path) -> None:
    with pytest.raises(RunError, match=f"{LONGEST} is the most: set worker-folder"):
        door(base / ("x" * LONGEST))


def test_a_folder_that_cannot_be_made_is_said(base: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be made: .*; set worker-folder"):
        door(base / "not" / "there")
    with pytest.raises(RunError, match="set an absolute path"):
        door_of(Service("x:y", "", 1.0), Owner.of(os.getpid()), "0", "here")


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"])
def test_the_folder_is_where_the_system_wants_it(
    variable: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(base))
    monkeypatch.setattr(tempfile, "tempdir", None)
    place = place_of(Owner.of(os.getpid()), "0")
    assert place.folder.parent == base / f"fedvemoe-{os.getuid()}"
