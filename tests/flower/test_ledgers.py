"""A silo's ledger on its own disk: a later run, of a later process, cannot have a sum twice.

Removed by hand, it turned a test here red: writing the ledger.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedvemoe_app.flower.silo.ledgers import FILE
from tests.flower.small_sums import SmallSums
from tests.flower.test_secure_silo import LOST, Keys, pinned


class Runs:
    """Runs of one consortium, one after another: silos keep what lies on their disks."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, *, lasting: bool = True) -> None:
        self._patch, self._lasting = patch, lasting
        self.folder = folder
        self._keys = Keys(folder)

    def next(self) -> SmallSums:
        sums = pinned(self._patch, self._keys)
        for node, context in sums.silos.contexts.items():
            if self._lasting:
                context.node_config["state-path"] = str(self.folder / f"disk-{node}")
        return sums

    def ledger(self, node: int = LOST) -> Path:
        return self.folder / f"disk-{node}" / FILE


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    return Runs(monkeypatch, tmp_path)


def test_the_next_run_begins_though_its_numbers_begin_anew(runs: Runs) -> None:
    for _ in range(2):
        sums = runs.next()
        for _ in range(2):
            assert sums.sum()[1].failures == {}
    assert stat.S_IMODE(runs.ledger().stat().st_mode) == 0o600
    assert [file.name for file in runs.ledger().parent.glob(f"*{FILE}*")] == [FILE]


def test_a_model_of_an_earlier_run_is_not_summed_over_others(runs: Runs) -> None:
    assert runs.next().sum()[1].failures == {}
    second = runs.next()
    _, tally = second.sum(1, 2, 3)
    assert "need 3" in tally.void
    assert "unmasked before, for other survivors" in tally.failures["silo-00"]
    second.models = 7
    assert second.sum(1, 2, 3)[1].failures == {}


def test_without_a_place_a_silo_remembers_for_one_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = Runs(monkeypatch, tmp_path, lasting=False)
    runs.next().sum()
    assert runs.next().sum(1, 2, 3)[1].failures == {}


def test_a_server_cannot_say_that_it_is_an_earlier_run(runs: Runs) -> None:
    first = runs.next()
    first.sum()
    number = first.server._run  # type: ignore[attr-defined]
    second = runs.next()
    second.server._run = number  # type: ignore[attr-defined]
    _, tally = second.sum()
    assert "sessions never repeat" in tally.failures["silo-02"]


@pytest.mark.parametrize("change", ["cut", "another's"])
def test_a_ledger_that_was_changed_is_not_gone_by(change: str, runs: Runs) -> None:
    runs.next().sum()
    data = runs.ledger().read_bytes()
    runs.ledger().write_bytes(data[:-1] if change == "cut" else runs.ledger(1).read_bytes())
    later = runs.next()
    later.models = 7  # the others would rightly refuse a second sum of this one without silo-02
    _, tally = later.sum()
    assert tally.failures.keys() == {"silo-02"}
    assert str(runs.ledger()) in tally.failures["silo-02"]
    assert "move it away" in tally.failures["silo-02"]


@pytest.mark.parametrize(
    ("place", "reason"), [("relative", "absolute path"), ("/proc/none", "cannot be written")]
)
def test_a_silo_that_cannot_remember_does_not_take_part(
    place: str, reason: str, runs: Runs
) -> None:
    sums = runs.next()
    sums.silos.contexts[LOST].node_config["state-path"] = place
    _, tally = sums.sum()
    assert tally.failures.keys() == {"silo-02"}
    assert reason in tally.failures["silo-02"]
