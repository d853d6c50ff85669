"""What ``fedvemoe run``, ``resume`` and ``base build`` do around the work: check, build, show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data import builtin
from fedvemoe_app.data.bank import open_bank
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.flower.messages.privacy import fitted
from fedvemoe_app.flower.programs.simulation import Resources, simulate
from fedvemoe_app.flower.resume.resuming import alone_in, how_to_go_on, past_of, refuse_taken
from fedvemoe_app.flower.server.run import check, lay_out
from fedvemoe_app.model.backbone import gpus_here, require_device
from fedvemoe_app.model.base_build import build_base
from fedvemoe_app.report.journal import read_run
from fedvemoe_app.report.live import follow
from fedvemoe_app.report.page import FILE as PAGE
from fedvemoe_app.report.progress import FILE as PROGRESS
from fedvemoe_app.report.summary import print_summary
from fedvemoe_app.settings import Value
from fedvemoe_app.strategies.registry import settle

Step = Callable[[int, int, float], None]
LOG = "flower.log"


def launch(config: RunConfig, resources: Resources, console: Console) -> Path:
    """Simulate a run, showing progress, and print its summary; return its folder.

    Raises
    ------
    FedVemoeError
        With one readable reason, before any long work where it can be known then.
    """
    if resources.silos < config.rounds.min_silos:
        raise SettingError(
            f"--silos {resources.silos} is below min-silos = {config.rounds.min_silos}: "
            "start more silos, or lower min-silos"
        )
    require_device(config.model.device)
    _require_gpus(resources.gpus_per_silo)
    config = _named(config)
    folder = Path(config.output.log_dir) / config.output.run_name
    refuse_taken(folder)
    _require_writable(folder.parent)
    check(fitted(settle(config), resources.silos), resources.silos)
    with _bar(console, "building the base model") as step:
        lay_out(config, step)
    _simulate(config, resources, folder, console)
    return folder


def relaunch(folder: Path, changes: Mapping[str, Value], each: Resources, console: Console) -> Path:
    """Let a simulation go on from its last complete round, as ``cli.launch`` runs one.

    Its settings are those in the run's folder, but for ``changes``; of ``each``, how many silos
    there are is the run's own affair.

    Raises
    ------
    FedVemoeError
        Where it is finished, in use, or the changes are none that a run may go on with.
    """
    folder = folder.absolute()
    _require_gpus(each.gpus_per_silo)
    given = {**read_run(folder).settings().to_flat(), **changes, "resume": str(folder)}
    config = settle(RunConfig.from_flat(given))
    if config.output.roster:
        raise RunError(
            f'{folder} was a deployment: add resume = "{folder}" to its settings and start it with '
            "flwr run, as before"
        )
    with alone_in(folder):
        past = past_of(folder, config.rounds.num_server_rounds)
        config = fitted(config, past.silos)
        past.admitted(config)
        require_device(config.model.device)
        known = check(config, past.silos)
        past.require(base=lay_out(config).backbone.fingerprint, bank=known.bank)
        (folder / PROGRESS).unlink(missing_ok=True)
    done, last = past.saved.round, config.rounds.num_server_rounds
    console.print(f"going on after round {done} of {last}", highlight=False)
    _simulate(config, replace(each, silos=past.silos), folder, console)
    return folder


def _require_gpus(each: float) -> None:
    """Refuse GPUs that no silo could be given: Flower would wait for them, or say it oddly."""
    asked, found = f"--gpus-per-silo {each:g}", gpus_here()
    if not each >= 0 or (each > 1 and each != int(each)):
        raise SettingError(f"{asked}: give a part of one GPU, whole ones, or 0 for none")
    if each > found:
        raise SettingError(
            f"{asked}: torch sees {found} GPUs here; leave it out to compute on the CPU, and see "
            "fedvemoe doctor"
        )


def _require_writable(log_dir: Path) -> None:
    """Make the folder of runs, and a file in it for a moment: before any work, not after it."""
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=log_dir):
            pass
    except OSError as error:
        raise RunError(
            f"log-dir = {log_dir} cannot be written ({error.strerror}): set it to a folder that "
            "you may write to"
        ) from error


def _named(config: RunConfig) -> RunConfig:
    """Give the run a name where the user gave none, so that its folder is known from here."""
    output = config.output
    name = output.run_name or f"{datetime.now():%Y%m%d-%H%M%S}"
    log_dir = str(Path(output.log_dir).absolute())
    return replace(config, output=replace(output, run_name=name, log_dir=log_dir))


def _simulate(config: RunConfig, resources: Resources, folder: Path, console: Console) -> None:
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"starting Flower with {resources.silos} silos", highlight=False)
    reasons: list[str] = []

    def watch(running: Callable[[], bool]) -> None:
        state = follow(folder, console, running)
        reasons.append(state.reason)

    try:
        simulate(config.to_flat(), resources, log, watch)
    except RunError as error:
        said = [*reasons, str(error), how_to_go_on(folder)]
        raise RunError("; ".join(filter(None, said))) from error
    except (KeyboardInterrupt, SystemExit):
        said = [f"interrupted; its log is {log}", how_to_go_on(folder)]
        console.print("; ".join(filter(None, said)), highlight=False, soft_wrap=True)
        raise
    _keep_log(log, folder / LOG)
    pictures = sorted((folder / "plots").glob("*.png"))
    page = folder / PAGE
    print_summary(read_run(folder), console, pictures, page if page.exists() else None)


def _keep_log(log: Path, kept: Path) -> None:
    """Move the log of this process into the run's folder, behind that of an earlier one."""
    if kept.exists():
        log.write_bytes(kept.read_bytes() + log.read_bytes())
    log.replace(kept)


def build_from_bank(bank: str, size: str, seed: int, console: Console) -> Path:
    """Build a base model from a bank's tasks (for ``builtin:tasks``: from its public part)."""
    if bank == "builtin:tasks":
        tasks = builtin.public_tasks()
    else:
        opened = open_bank(bank)
        tasks = opened.load([card.name for card in opened.catalogue])
    with _bar(console, f"building a {size} base model") as step:
        return build_base(tasks, size=size, seed=seed, on_progress=step)  # type: ignore[arg-type]


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Step]:
    """Show a progress bar from the first step on; nothing where no step is taken."""
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console) as progress:
        bar = progress.add_task("", visible=False, loss="")

        def step(done: int, steps: int, loss: float) -> None:
            shown = f"loss {loss:.2f}"
            progress.update(bar, completed=done, total=steps, visible=True, loss=shown)

        yield step
