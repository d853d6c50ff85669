"""What a message to a deployed silo costs beyond its work: with a worker, without, and at all.

``python -m benchmarks.worker``: SuperLink and two SuperNodes on loopback, one with a worker, and a
base of about 100M parameters with random weights. The server sends each of them in turn a message
to a handler that does nothing, and one that probes an expert on few tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.worker_app import WITH, WITHOUT
from fedvemoe_app.config import RunConfig
from fedvemoe_app.deploy.consortium import last_lines
from fedvemoe_app.errors import RunError
from fedvemoe_app.flower.programs.processes import (
    all_ended,
    environment_of,
    free_port,
    healthy,
    raise_unless_completed,
    running,
    staged,
    toml,
    wait_for,
)
from fedvemoe_app.model.backbone import load_tokenizer
from fedvemoe_app.model.bases import locate
from fedvemoe_app.settings import Value

CONNECTION = "loopback"
SHAPE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 14,
    "num_attention_heads": 12,
}
TOKENIZER = "builtin:tiny"
SETTINGS: dict[str, Value] = {
    "privacy": "none",
    "k-init": 1,
    "k-max": 1,
    "top-m": 1,
    "lora-rank": 4,
    "probe-tokens": 10,
    "keyword-categories": "words",
    "tasks-per-category": 1,
    "eval-examples": 1,
    "generate-examples": 1,
    "torch-threads": 1,
    "private-slot": "off",
}
Rows = list[dict[str, str | int | float]]


def write_base(folder: Path) -> int:
    """Write a Llama of ``SHAPE`` with random weights, and a tokenizer; return its parameters."""
    tokenizer = load_tokenizer(locate(TOKENIZER))
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **SHAPE)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def write_tasks(folder: Path) -> None:
    """Write two tasks of one word each: what a silo computes is to be next to nothing."""
    folder.mkdir()
    for task in ("one", "two"):
        instances = [{"id": f"{i}", "input": f"{i}", "output": [f"{i}"]} for i in range(40)]
        content = {"Definition": ["Say."], "Categories": ["words"], "Instances": instances}
        (folder / f"words_{task}.json").write_text(json.dumps(content), encoding="utf-8")


def measure(folder: Path, base: Path, cycles: int) -> Rows:
    """Run the app on a deployment of two silos; return the seconds of every exchange."""
    results = folder / "seconds.jsonl"
    write_tasks(folder / "tasks")
    paths = {"model-name": base, "dataset-name": folder / "tasks", "out-json": results}
    own = {**{key: str(path) for key, path in paths.items()}, "num-server-rounds": cycles}
    settings = RunConfig.from_flat({**SETTINGS, **own}).to_flat()
    (folder / "settings.toml").write_text(toml(settings), encoding="utf-8")
    app, log = _laid_out(folder / "fedvemoe"), folder / "log"
    with _deployed(folder, log) as environment, log.open("a") as output:
        command = ["flwr", "run", str(app), CONNECTION, "--stream"]
        command += ["--run-config", str(folder / "settings.toml")]
        with running(command, environment, folder, output) as streaming:
            streaming.wait()
        try:
            raise_unless_completed(CONNECTION, environment, folder, log)
        except RunError as error:
            raise SystemExit(f"{error}\n{last_lines(log)}") from error
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def _laid_out(app: Path) -> Path:
    """Lay out the package as an app whose server and client are the benchmark's."""
    staged(app)
    source = Path(__file__).with_name("worker_app.py").read_text(encoding="utf-8")
    (app / "fedvemoe_app" / "worker_app.py").write_text(source, encoding="utf-8")
    manifest = (app / "pyproject.toml").read_text(encoding="utf-8")
    for old, new in (
        ("server_app:app", "worker_app:server"),
        ("client_app:app", "worker_app:client"),
    ):
        manifest = manifest.replace(f"fedvemoe_app.{old}", f"fedvemoe_app.{new}")
    (app / "pyproject.toml").write_text(manifest, encoding="utf-8")
    return app


@contextmanager
def _deployed(folder: Path, log: Path) -> Iterator[dict[str, str]]:
    """Start SuperLink and two SuperNodes; yield the environment in which flwr finds them."""
    address = f"127.0.0.1:{free_port()}"
    with all_ended(str(folder)), ExitStack() as stack:
        output = stack.enter_context(log.open("a"))

        def start(name: str, command: list[str]) -> dict[str, str]:
            (folder / name).mkdir()
            environment = environment_of(str(folder), folder / name)
            process = stack.enter_context(running(command, environment, folder / name, output))
            if name == "superlink":
                wait_for(lambda: healthy(address), process, "SuperLink", log)
            return environment

        host, _, port = address.partition(":")
        superlink = ["flower-superlink", "--insecure", "--host", host, "--port", port]
        environment = start("superlink", [*superlink, "--disable-runtime-dependency-installation"])
        connection = toml({"address": address, "insecure": True})
        config = folder / "superlink" / "config.toml"
        config.write_text(f"[superlink.{CONNECTION}]\n{connection}", encoding="utf-8")
        for index, worker in enumerate((True, False)):
            node: dict[str, Value] = {"partition-id": index, "num-partitions": 2, "worker": worker}
            (folder / f"node{index}.toml").write_text(toml(node), encoding="utf-8")
            supernode = ["flower-supernode", "--insecure", "--superlink", address, "--host", host]
            supernode += ["--port", str(free_port())]
            start(f"node{index}", [*supernode, "--node-config", str(folder / f"node{index}.toml")])
        yield environment


def table(rows: Rows, parameters: int) -> Table:
    """Return the seconds of an exchange, and how many times those of a handler that does nothing.

    Ratios are of exchanges that followed one another; the first of all is left out.
    """
    shown = Table(
        title=f"An exchange with a silo, base of {parameters / 1e6:.0f}M parameters",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("silo", "does nothing, s", "assess, s", "ratio: median", "min", "max"):
        shown.add_column(heading, justify="left" if heading == "silo" else "right")
    for silo in (WITH, WITHOUT):
        nothing, assess = (_seconds(rows, silo, kind) for kind in ("query.trivial", "evaluate"))
        ratios = [one / other for one, other in zip(assess, nothing, strict=True)]
        figures = (median(nothing), median(assess), median(ratios), min(ratios), max(ratios))
        shown.add_row(silo, *(f"{figure:.2f}" for figure in figures))
    return shown


def _seconds(rows: Rows, silo: str, kind: str) -> list[float]:
    found = [row for row in rows if (row["silo"], row["kind"]) == (silo, kind)]
    return [float(row["seconds"]) for row in found if int(row["cycle"]) > 0]


def main(
    cycles: Annotated[int, typer.Option(min=2, help="Exchanges of each kind.")] = 8,
    output: Annotated[Path | None, typer.Option(help="JSON file for all seconds.")] = None,
) -> None:
    """Measure, print the table, write the seconds."""
    with tempfile.TemporaryDirectory(prefix="fedvemoe-") as folder:
        parameters = write_base(Path(folder) / "base")
        rows = measure(Path(folder), Path(folder) / "base", cycles)
    if output:
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(table(rows, parameters))


if __name__ == "__main__":
    typer.run(main)
