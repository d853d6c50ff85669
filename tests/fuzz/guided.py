"""Fuzzing guided by coverage: libFuzzer looks for bytes that take a decoder where it was not yet.

``pip install -e '.[fuzz]'``, then ``python -m tests.fuzz.guided -max_total_time=300``; further
options are libFuzzer's. The first byte of an input chooses the decoder; the others are its message.
An error that is not clean ends it, with the input in a file ``crash-...``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

with atheris.instrument_imports(include=["fedvemoe_app.flower", "fedvemoe_app.secagg"]):
    from tests.fuzz.decoders import DECODERS, Clean

NAMES = sorted(name for name in DECODERS if name not in ("adapter config", "adapter weights"))


def decode(data: bytes) -> None:
    """Let a decoder have a message."""
    if not data:
        return
    decoder = DECODERS[NAMES[data[0] % len(NAMES)]]
    message: object = data[1:]
    if isinstance(decoder.sound()[0], RecordDict):
        try:
            message = recorddict_from_proto(ProtoRecordDict.FromString(data[1:]))
        except Exception:
            return  # Flower itself cannot read it
    try:
        decoder.decode(message)
    except Clean:
        return


def corpus() -> Path:
    """Write a sound message of every decoder."""
    folder = Path(mkdtemp(prefix="corpus-"))
    for number, name in enumerate(NAMES):
        for message in DECODERS[name].sound():
            data = (
                recorddict_to_proto(message).SerializeToString()
                if isinstance(message, RecordDict)
                else message
            )
            (folder / f"{number}").write_bytes(bytes([number]) + data)
    return folder


if __name__ == "__main__":
    atheris.Setup([*sys.argv, str(corpus())], decode)
    atheris.Fuzz()
