"""The identity of a base model: a hash over its config, tokenizer and weights as they lie on disk.

It knows nothing of the dtype or quantisation a loader chose, so silos with different hardware
can agree that they adapt the same base.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi

_TOKENIZER = ("tokenizer_config.json", "chat_template.jinja")
# A fast tokenizer's one file says all; the older files are read only where it is absent.
_VOCABULARY = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint(folder: Path, weights: Mapping[str, str] | None = None) -> str:
    """Return the sha256 of a model folder's config, tokenizer and weight files.

    ``weights`` are the sha256 of the weight files by name, where the folder does not hold them
    (``hub_weights``): a server that needs no weights need not download them.
    """
    files = {file.name: _file_digest(file) for file in _weight_files(folder)} or dict(weights or {})
    tokenizer = [(file.name, _file_digest(file)) for file in _tokenizer_files(folder)]
    digest = hashlib.sha256(_config_text(folder / "config.json").encode())
    for name, content in (*tokenizer, *sorted(files.items())):
        digest.update(f"\n{name} {content}".encode())
    return digest.hexdigest()


def hub_weights(name: str, revision: str) -> dict[str, str]:
    """Return the sha256 of a hub model's weight files by name, as the hub lists them.

    Raises
    ------
    OSError
        Where the hub cannot be reached or does not know the model.
    """
    found = HfApi().model_info(name, revision=revision, files_metadata=True).siblings or []
    listed = {file.rfilename: file.lfs.sha256 for file in found if file.lfs}
    top = {name: digest for name, digest in listed.items() if "/" not in name}
    for ending in (".safetensors", ".bin"):
        chosen = {name: digest for name, digest in top.items() if name.endswith(ending)}
        if chosen:
            return chosen
    return {}


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
