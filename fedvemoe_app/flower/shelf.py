"""States on disk, one file for each round: whole or not there, and checked when they are read.

A file holds arrays (safetensors) and facts (JSON, in its header) with a format number and a
checksum over both; nothing is pickled. It is written beside its place, synced and renamed, so that
a process that dies leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fedvemoe_app.errors import RunError

FORMAT = "fedvemoe-state-1"
"""Changes with what the files mean: a version of this package reads its own format alone."""
_NAME = re.compile(r"round-(\d{4,})\.safetensors")


class DamagedError(RunError):
    """A file of a state that cannot be used; its message says why."""


class State(NamedTuple):
    """What something needs to go on: ``arrays`` by name, and ``facts`` that JSON can say."""

    arrays: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The states after the last rounds, in a folder of their own; the newest ``keep`` stay."""

    folder: Path
    keep: int

    def rounds(self) -> list[int]:
        """Return the rounds whose states are here, newest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def put(self, round_: int, state: State) -> None:
        """Store the state after a round; RunError where it cannot be written."""
        write(self._file(round_), state)
        for old in self.rounds()[self.keep :]:
            self._file(old).unlink(missing_ok=True)

    def get(self, round_: int) -> State:
        """Return the state after a round; DamagedError where it cannot be used."""
        return read(self._file(round_))

    def drop_after(self, round_: int) -> None:
        """Remove the states of later rounds, which will be made again."""
        for newer in (number for number in self.rounds() if number > round_):
            self._file(newer).unlink(missing_ok=True)

    def _file(self, round_: int) -> Path:
        return self.folder / f"round-{round_:04d}.safetensors"


def write(path: Path, state: State) -> None:
    """Write one state, readable by its owner alone; RunError where it cannot be written."""
    arrays = {name: _plain(tensor) for name, tensor in state.arrays.items()}
    facts = json.dumps(state.facts, sort_keys=True)
    header = {"format": FORMAT, "facts": facts, "sha256": _checksum(arrays, facts)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        save_file(arrays, temporary, header)
        temporary.chmod(0o600)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written ({error}): is the disk full?") from error


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, readable by its owner alone; RunError where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written ({error}): is the disk full?") from error


def read(path: Path) -> State:
    """Return the state that ``write`` wrote; DamagedError where it is not whole."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read ({error})") from error
    if header.get("format") != FORMAT:
        raise DamagedError(
            f"{path} has format {header.get('format')}, this version reads {FORMAT}: "
            "go on with the version that wrote it"
        )
    facts = header.get("facts", "")
    if header.get("sha256") != _checksum(arrays, facts):
        raise DamagedError(f"{path} is damaged: its checksum does not hold")
    return State({name: torch.from_numpy(a) for name, a in arrays.items()}, json.loads(facts))


def _plain(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(tuple(tensor.shape))


def _checksum(arrays: Mapping[str, np.ndarray[Any, Any]], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {arrays[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
