"""States on disk: what is read is what was written, or there is a word why not.

Removed by hand, each turned a test here red: the checksum; the format; forgetting old rounds.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.resume.checkpoint import Checkpoints
from fedvemoe_app.flower.shelf import DamagedError, Shelf, State, replace_bytes

SHARED = torch.zeros(3)
STATE = State(
    {
        "one": SHARED,
        "two": SHARED,
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "nothing": torch.empty(0, 4),
        "strange": torch.tensor([float("nan"), float("inf")]),
        "turned": torch.arange(6.0).view(2, 3).T,
    },
    {"words": ["a", "b"], "number": 0.1, "endless": float("inf"), "none": None},
)


def same(one: State, other: State) -> bool:
    return (
        one.facts == other.facts
        and one.arrays.keys() == other.arrays.keys()
        and all(
            t.dtype == one.arrays[n].dtype
            and t.shape == one.arrays[n].shape
            and t.contiguous().numpy().tobytes() == one.arrays[n].contiguous().numpy().tobytes()
            for n, t in other.arrays.items()
        )
    )


def shelf_in(folder: Path, *rounds: int, keep: int = 2) -> Shelf:
    shelf = Shelf(folder / "states", keep)
    for round_ in rounds:
        shelf.put(round_, STATE)
    return shelf


def test_what_is_put_is_got_back_bit_for_bit(tmp_path: Path) -> None:
    assert same(shelf_in(tmp_path, 7).get(7), STATE)
    assert same(shelf_in(tmp_path, 12345).get(12345), STATE)


def test_only_the_newest_stay_and_later_ones_can_be_dropped(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path, 0, 1, 2, 3, keep=3)
    assert shelf.rounds() == [3, 2, 1]
    shelf.drop_after(1)
    assert shelf.rounds() == [1]
    assert Shelf(tmp_path / "nowhere", 1).rounds() == []


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    shelf_in(tmp_path, 1)
    (file,) = (tmp_path / "states").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), torn=st.booleans())
def test_any_flipped_bit_and_any_torn_end_are_found(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, torn: bool
) -> None:
    shelf = shelf_in(tmp_path_factory.mktemp("damaged"), 1)
    (file,) = shelf.folder.iterdir()
    data = bytearray(file.read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    file.write_bytes(data[:at] if torn else data)
    with pytest.raises(DamagedError, match=r"round-0001\.safetensors"):
        shelf.get(1)


def test_another_format_is_named_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "round-0001.safetensors"
    for header in ({"format": "fedvemoe-state-0"}, {}):
        save_file({"x": SHARED}, file, header)
        with pytest.raises(DamagedError, match="this version reads fedvemoe-state-1"):
            Shelf(tmp_path, 1).get(1)


@pytest.mark.parametrize("what", ["state", "bytes"])
def test_a_full_disk_leaves_the_old_file(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelf_in(tmp_path, 1)
    replace_bytes(tmp_path / "bytes", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write = {
        "state": lambda: shelf.put(1, State({}, {})),
        "bytes": lambda: replace_bytes(tmp_path / "bytes", b"new"),
    }[what]
    with pytest.raises(RunError, match=r"cannot be written .*No space left.*is the disk full"):
        write()
    assert same(shelf.get(1), STATE)
    assert (tmp_path / "bytes").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("bytes", "round-0001.safetensors", "states")
    ]


class Part:
    def __init__(self, value: float) -> None:
        self.value = value

    def state(self) -> State:
        return State({"a:b": torch.tensor([self.value])}, {"twice": 2 * self.value})

    def restore(self, state: State) -> None:
        assert state.facts["twice"] == 2 * float(state.arrays["a:b"])
        self.value = float(state.arrays["a:b"])


def test_a_checkpoint_gives_every_part_its_own_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints.of(tmp_path, 2)
    checkpoints.save(4, {"one": Part(1.0), "two": Part(2.0)})
    one, two = Part(0.0), Part(0.0)
    saved = checkpoints.latest()
    saved.restore({"one": one, "two": two})
    assert (saved.round, one.value, two.value) == (4, 1.0, 2.0)
    with pytest.raises(RunError, match="no state of three"):
        saved.restore({"three": one})


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints.of(tmp_path, 2)
    with pytest.raises(RunError, match="no round is complete"):
        checkpoints.latest()
    for round_ in (1, 2):
        checkpoints.save(round_, {"one": Part(float(round_))})
    newest = tmp_path / "checkpoint" / "round-0002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest().round == 1
    assert "round 2 is passed over" in caplog.text
    (tmp_path / "checkpoint" / "round-0001.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"no checkpoint that can be used: .*0002.*0001"):
        checkpoints.latest()
