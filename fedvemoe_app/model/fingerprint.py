"""The identity of a base model: a hash over its config, tokenizer and weights as they lie on disk.

It knows nothing of the dtype or quantisation a loader chose, so silos with different hardware
can agree that they adapt the same base.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

_TOKENIZER = ("tokenizer_config.json", "chat_template.jinja")
# A fast tokenizer's one file says all; the older files are read only where it is absent.
_VOCABULARY = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint(folder: Path) -> str:
    """Return the sha256 of a model folder's config, tokenizer and weight files."""
    digest = hashlib.sha256(_config_text(folder / "config.json").encode())
    for file in (*_tokenizer_files(folder), *_weight_files(folder)):
        digest.update(f"\n{file.name} {_file_digest(file)}".encode())
    return digest.hexdigest()


def _config_text(file: Path) -> str:
    config = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps({key: config[key] for key in sorted(config) if key not in _VOLATILE})


def _tokenizer_files(folder: Path) -> list[Path]:
    main = folder / "tokenizer.json"
    vocabulary = [main] if main.is_file() else [folder / name for name in _VOCABULARY]
    files = [*vocabulary, *(folder / name for name in _TOKENIZER)]
    return [file for file in files if file.is_file()]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def _file_digest(file: Path) -> str:
    # The hub's cache names a large file by its sha256 and links to it: no need to read 15 GB.
    target = file.resolve()
    if file.is_symlink() and _SHA256.fullmatch(target.name):
        return target.name
    stat = target.stat()
    return _read_digest(target, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_digest(file: Path, size: int, modified: int) -> str:
    """Hash a file once per process; a change of size or time makes it another file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
