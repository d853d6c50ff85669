"""Nothing that comes from elsewhere is run: no pickle, no eval, no weights but safetensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedvemoe_app"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {
    ("torch", "load"),
    ("np", "load"),
    ("numpy", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
    ("os", "popen"),
    ("pd", "read_pickle"),
}
WORDS = {"allow_pickle": True, "trust_remote_code": True, "shell": True, "weights_only": False}
"""Arguments that let data be code."""


def offences(tree: ast.AST) -> Iterator[str]:
    """Yield what a module does that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _in_call(node)


def _in_call(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        called = node.func.value.id, node.func.attr
        if called in METHODS:
            yield ".".join(called)
    for word in node.keywords:
        value = word.value.value if isinstance(word.value, ast.Constant) else None
        if word.arg in WORDS and value is WORDS[word.arg]:
            yield f"{word.arg}={value}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_runs_nothing_that_it_reads(file: Path) -> None:
    assert list(offences(ast.parse(file.read_text(encoding="utf-8")))) == []


BAD = (
    "import pickle",
    "from pickle import loads",
    "eval(text)",
    "exec(text)",
    "torch.load(file)",
    "yaml.load(text)",
    "np.load(file, allow_pickle=True)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
    "subprocess.run(words, shell=True)",
)


@pytest.mark.parametrize("text", BAD)
def test_what_is_looked_for_is_found(text: str) -> None:
    assert list(offences(ast.parse(text)))


WIRE = ("flower/messages/wire.py", "secagg/codec.py", "secagg/roster.py", "report/jsonl.py")


@pytest.mark.parametrize("name", WIRE)
def test_decoders_read_json_through_the_one_reader_with_limits(name: str) -> None:
    assert "json.load" not in (PACKAGE / name).read_text(encoding="utf-8")
