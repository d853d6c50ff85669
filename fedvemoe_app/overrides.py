"""Settings as a user gives them on a command line: a TOML file, then ``key=value`` on top."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedvemoe_app.errors import SettingError
from fedvemoe_app.settings import Leaf, Value, by_key, require_known

PATHS = (
    *("keyword-file", "assignment-file", "tasks-file", "local-baseline-json"),
    *("out-json", "log-dir", "roster", "resume"),
)
PERHAPS_PATHS = ("dataset-name", "model-name", "base-model")
"""Settings that are a folder or the name of something that is none."""


def gather(tree: type, file: Path | None, words: Iterable[str]) -> dict[str, Value]:
    """Return the flat settings of ``file`` overlaid with ``words`` of the form key=value.

    Raises
    ------
    SettingError
        Where the file is missing, not TOML or holds what is no setting or no value of one, or a
        word is not key=value or not of the key's type.
    """
    known = by_key(tree)
    flat = _checked(file, known) if file else {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise SettingError(f'"{word}" is not a setting: write key=value, such as k-init=3')
        flat[key] = from_text(known[key], text) if key in known else text
    return absolute(flat)


def from_text(leaf: Leaf, text: str) -> Value:
    """Return ``text`` in the type of the setting; quotes around a text are taken off."""
    if leaf.kind is str:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    if leaf.kind is bool:
        truths = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in truths:
            return truths[text.lower()]
    else:
        try:
            return int(text) if leaf.kind is int else float(text)
        except ValueError:
            pass
    raise SettingError(f"{leaf.key} = {text}: must be of type {leaf.kind.__name__}")


def absolute(flat: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settings with paths made absolute: silos do not run where the user stands."""
    result = dict(flat)
    for key in (*PATHS, *PERHAPS_PATHS):
        value = result.get(key)
        if isinstance(value, str) and value:
            path = Path(value).expanduser()
            if key in PATHS or path.exists():
                result[key] = str(path.absolute())
    return result


def _checked(file: Path, known: Mapping[str, Leaf]) -> dict[str, Value]:
    """Return the settings of a file, each of which is one by itself; an error names the file."""
    content = _read(file)
    try:
        require_known(content, known)
        return {key: known[key].check(value) for key, value in content.items()}
    except SettingError as error:
        raise SettingError(f"run-config file {file}: {error}") from error


def _read(file: Path) -> dict[str, Value]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"run-config file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"run-config file {file} is not TOML: {error}") from error
    tables = [
        key for key, value in content.items() if not isinstance(value, bool | int | float | str)
    ]
    if tables:
        raise SettingError(f"run-config file {file}: {tables[0]} must be a plain key = value")
    return content
