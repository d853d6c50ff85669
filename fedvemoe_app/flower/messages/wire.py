"""The wire: how tensors and small facts become Flower records, and back, bit for bit.

Flower stores and moves every array of a record as an object of its own. A bank has hundreds of
small tensors, so they travel as one flat vector per number format, with an index beside it.
Nothing is pickled; what arrives is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedvemoe_app.em.round import Belief
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import RunError
from fedvemoe_app.jsontext import parse

LONGEST_HEADER = 2**12
"""Bytes in which the header of a NumPy array ends."""
MOST_FACTS = 2**22
"""Characters of JSON in one record of a message: ten times what the largest bank needs."""
MOST_AXES, MOST_VALUES = 8, 2**40
"""Of a tensor on the wire. Its values are there already; beyond this even a view of none fails."""
FORMATS = {"float32": torch.float32, "float64": torch.float64, "bool": torch.bool}
_NAMES = {dtype: name for name, dtype in FORMATS.items()}


def arrays_in(content: RecordDict) -> dict[str, ArrayRecord]:
    """Return the records of arrays.

    Flower's own view of them refers to itself, which keeps an upload until garbage is collected.
    """
    return {name: r for name, r in content.items() if isinstance(r, ArrayRecord)}


def texts_in(content: RecordDict) -> dict[str, ConfigRecord]:
    """Return the records of text and small numbers."""
    return {name: r for name, r in content.items() if isinstance(r, ConfigRecord)}


def put_tensors(content: RecordDict, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Add named tensors (float32, float64 or bool, any shape) to ``content`` as ``name``."""
    index = {key: [_NAMES[t.dtype], list(t.shape)] for key, t in sorted(tensors.items())}
    flat = {
        kind: array_of([tensors[key].detach().cpu().numpy() for key in keys])
        for kind, keys in _by_format(index).items()
    }
    content[name] = ArrayRecord(flat)
    put_facts(content, f"{name}.index", index)


def array_of(arrays: Sequence[NDArray[Any]]) -> Array:
    """Return one vector of all numbers of ``arrays``, at least one, of one type and any shapes.

    It is what ``Array(vector)`` makes, bit for bit, but the numbers are copied once: a bank of a
    large base has hundreds of megabytes.
    """
    parts = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    dtype, shape = parts[0].dtype, (sum(map(len, parts)),)
    header = BytesIO()
    about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    data = b"".join([header.getvalue(), *(part.data for part in parts)])
    return Array(str(dtype), shape, "numpy.ndarray", data)


def get_tensors(content: RecordDict, name: str) -> dict[str, Tensor]:
    """Return the tensors that ``put_tensors`` added; RunError where they are missing or damaged."""
    index = _index(content, name)
    tensors: dict[str, Tensor] = {}
    for kind, keys in _by_format(index).items():
        vector = _vector(content, name, kind)
        sizes = [math.prod(index[key][1]) for key in keys]
        if len(vector) != sum(sizes):
            raise RunError(f"record {name}: its {kind} values do not match their index")
        parts = torch.split(vector, sizes)
        tensors |= {key: part.view(index[key][1]) for key, part in zip(keys, parts, strict=True)}
    return tensors


def _index(content: RecordDict, name: str) -> dict[str, Any]:
    """Return ``[format, shape]`` of each tensor of a record."""
    index = get_facts(content, f"{name}.index")
    if not isinstance(index, dict) or not all(map(_is_entry, index.values())):
        raise RunError(f"record {name}.index of a message is damaged")
    return index


def _is_entry(entry: object) -> bool:
    match entry:
        case [str(kind), [*shape]]:
            return kind in FORMATS and is_shape(shape)
    return False


def is_shape(shape: object) -> bool:
    """Whether ``shape`` is a list of few and possible sizes."""
    return (
        isinstance(shape, list)
        and len(shape) <= MOST_AXES
        and all(type(size) is int and 0 <= size <= MOST_VALUES for size in shape)
        and math.prod(size or 1 for size in shape) <= MOST_VALUES
    )


def vector_of(array: Array) -> NDArray[Any]:
    """Return an array's numbers without a copy; where they are not NumPy's, almost any error."""
    data = memoryview(array.data)
    header = BytesIO(data[:LONGEST_HEADER])
    if array.stype != "numpy.ndarray" or np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("not an array as NumPy writes it")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran's order")
    return np.frombuffer(data[header.tell() :], dtype).reshape(shape)


def _vector(content: RecordDict, name: str, kind: str) -> Tensor:
    try:
        vector = torch.from_numpy(np.array(vector_of(arrays_in(content)[name][kind])))
    except Exception as error:  # bytes from elsewhere make NumPy's reader raise almost anything
        raise RunError(f"record {name}: its {kind} values are missing or damaged") from error
    if vector.dtype != FORMATS[kind] or vector.dim() != 1:
        raise RunError(f"record {name}: its {kind} values are no vector of {kind}")
    return vector


def _by_format(index: Mapping[str, Any]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for key, (kind, _) in index.items():
        grouped.setdefault(kind, []).append(key)
    return grouped


def put_facts(content: RecordDict, name: str, facts: object) -> None:
    """Add anything JSON can say to ``content`` as ``name``."""
    content[name] = ConfigRecord({"json": json.dumps(facts)})


def get_facts(content: RecordDict, name: str, most: int = MOST_FACTS) -> Any:
    """Return what ``put_facts`` added; RunError where it is missing, too long or not JSON."""
    record = texts_in(content).get(name)
    try:
        return parse(str(record["json"]), most) if record is not None else _missing(name)
    except (KeyError, ValueError) as error:
        raise RunError(f"record {name} of a message is damaged") from error


def _missing(name: str) -> Any:
    raise RunError(f"a message without its record {name}")


def put_bank(content: RecordDict, bank: Bank) -> None:
    """Add the living experts and the prior."""
    put_tensors(content, "experts", bank.experts)
    put_tensors(content, "bank", {"alive": bank.alive, "prior": bank.prior})


def get_bank(content: RecordDict) -> Bank:
    """Return the bank that ``put_bank`` added."""
    alive, prior = _fields(content, "bank", "alive", "prior")
    return Bank(get_tensors(content, "experts"), alive, prior)


def mark(bank: Bank) -> Tensor:
    """Return a fingerprint of the bank [256] bool: equal for the same experts, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(bank.experts):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(bank.experts[name].numpy()).data)
    bits = np.unpackbits(np.frombuffer(digest.digest(), np.uint8))
    return torch.from_numpy(bits.astype(bool))


def put_belief(content: RecordDict, belief: Belief) -> None:
    """Add a silo's belief (to its own memory: a belief is never sent)."""
    share = torch.tensor(belief.share, dtype=torch.float64)
    put_tensors(
        content, "belief", {"predict": belief.predict, "train": belief.train, "share": share}
    )


def get_belief(content: RecordDict) -> Belief:
    """Return the belief that ``put_belief`` added."""
    predict, train, share = _fields(content, "belief", "predict", "train", "share")
    return Belief(predict, train, float(share))


def _fields(content: RecordDict, name: str, *keys: str) -> list[Tensor]:
    tensors = get_tensors(content, name)
    if tensors.keys() != set(keys):
        raise RunError(f"record {name} of a message lacks one of {', '.join(keys)}")
    return [tensors[key] for key in keys]


def size_in_bytes(content: RecordDict) -> int:
    """Return the payload bytes of all records, without Flower's own framing."""
    return sum(record.count_bytes() for record in arrays_in(content).values()) + text_size(content)


def text_size(content: RecordDict) -> int:
    """Return the bytes of all records of text and small numbers.

    Flower's own count fails on an empty text, which anybody may send.
    """
    records = texts_in(content).values()
    return sum(len(key) + _value_size(value) for one in records for key, value in one.items())


def _value_size(value: object) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(_value_size, value)) if isinstance(value, list) else 8
