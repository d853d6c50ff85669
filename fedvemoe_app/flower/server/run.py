"""A whole run on the server: checks before anything long, the rounds, and what they leave."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.messages.privacy import check_dp, fitted, warn_of_dp
from fedvemoe_app.flower.messages.wire import put_bank
from fedvemoe_app.flower.resume.resuming import alone_in, past_of, refuse_taken
from fedvemoe_app.flower.resume.standing import Standing
from fedvemoe_app.flower.server.agreed import Agreed, agreed
from fedvemoe_app.flower.server.baselines import check_target, write_baselines
from fedvemoe_app.flower.server.consortium import sample_size, wait_for_nodes
from fedvemoe_app.flower.server.grids import noised, summing
from fedvemoe_app.flower.server.meeting import meet, reunion
from fedvemoe_app.flower.server.place import Place
from fedvemoe_app.flower.server.recorder import Recorder
from fedvemoe_app.flower.server.strategy import FedVEMoE
from fedvemoe_app.flower.sums.epsilon import Spending
from fedvemoe_app.model.base_build import Progress as Building
from fedvemoe_app.model.bases import locate
from fedvemoe_app.model.experts import Experts
from fedvemoe_app.model.skeleton import skeleton
from fedvemoe_app.report.journal import Journal, read_run
from fedvemoe_app.report.manifest import manifest
from fedvemoe_app.report.page import write_page
from fedvemoe_app.report.plots import draw_all
from fedvemoe_app.report.progress import Progress
from fedvemoe_app.report.trackers import Trackers, chosen
from fedvemoe_app.secagg.roster import read_roster
from fedvemoe_app.silo import experts_on
from fedvemoe_app.strategies.registry import method_of, settle
from fedvemoe_app.strategies.remarks import remarks

LOG = logging.getLogger("flwr")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of a disk that is full, read-only or broken."""


def run(grid: Grid, config: RunConfig) -> Path:
    """Run a federation to its end and return the run's folder.

    Raises
    ------
    SettingError, DataError, BaseModelError
        Before any silo is asked for anything.
    RunError
        Where too few silos answer, or the run's folder cannot be written.
    """
    for remark in remarks(config):
        LOG.warning("%s", remark)
    config = settle(config)
    if config.output.resume:
        return _resumed(grid, config, Path(config.output.resume).absolute())
    nodes = wait_for_nodes(grid, config.rounds.min_silos, config.rounds.phase_timeout)
    config = fitted(config, len(nodes))
    known = check(config, len(nodes))
    log_dir = Path(config.output.log_dir).absolute()
    if config.output.run_name:
        refuse_taken(log_dir / config.output.run_name)
    journal = Journal.create(
        log_dir,
        config.output.run_name,
        config.to_flat(),
        manifest({"silos": len(nodes), "seed": config.output.seed, "code": code_hash()}),
    )
    with alone_in(journal.folder):
        return _to_the_end(grid, config, Place.new(journal, config, len(nodes)), nodes, known)


def _resumed(grid: Grid, config: RunConfig, folder: Path) -> Path:
    """Go on with the run in ``folder``, unless anything that matters differs from before."""
    read_run(folder)
    with alone_in(folder):
        past = past_of(folder, config.rounds.num_server_rounds)
        config = past.admitted(fitted(config, past.silos))
        known = check(config, past.silos)
        past.require(base=lay_out(config).backbone.fingerprint, bank=known.bank)
        nodes = reunion(grid, config, len(past.facts["present"]))
        place = Place.of(past.reopened(config), config, past)
        return _to_the_end(grid, config, place, nodes, known)


def _to_the_end(
    grid: Grid, config: RunConfig, place: Place, nodes: list[int], known: Agreed
) -> Path:
    """Run all rounds to come, and draw what came of them."""
    journal = place.journal
    LOG.info("results go to %s", journal.folder)
    progress = Progress(journal.folder)
    trackers = Trackers(config.output.trackers, journal.folder, config.to_flat())
    journal.watchers.append(trackers)
    with _ending(progress), closing(trackers):
        _rounds(grid, config, place, nodes, known)
        progress.message("drawing the pictures")
        journal.summary()
        ended = read_run(journal.folder)
        write_page(ended, draw_all(ended))
    return journal.folder


def check(config: RunConfig, silos: int) -> Agreed:
    """Read everything the settings point to, so that a mistake shows before any work.

    Returns what the server knows of silos and tasks; a server of a deployment reads no data.
    """
    check_dp(config)
    warn_of_dp(config, silos)
    if config.dp.on:
        Spending(config.dp, silos)  # raises where its library is missing
    fraction, least = config.rounds.fraction_train, config.rounds.min_silos
    asked = sample_size(fraction, silos)
    if asked < least:
        raise SettingError(
            f"fraction-train = {fraction:g} asks {asked} of {silos} silos to train, but "
            f"min-silos = {least}: raise fraction-train, or lower min-silos"
        )
    known = agreed(config, silos)
    for note in known.notes:
        LOG.warning("%s", note)
    _local_baselines(config, known.silos)
    check_target(config.method.out_json)
    chosen(config.output.trackers)
    if config.output.roster:
        read_roster(config.output.roster, config.output.consortium_key)
    return known


@contextmanager
def _ending(progress: Progress) -> Iterator[None]:
    """Say in the run's folder how it ended, if it can be written to.

    RunError in place of an error of the disk, which nobody else has explained.
    """
    folder = progress.path.parent
    try:
        yield
    except BaseException as error:
        with suppress(RunError):
            progress.failed(str(error) or type(error).__name__)
        if isinstance(error, OSError) and error.errno in DISK:
            raise RunError(
                f"{error.filename or folder} cannot be written: {error.strerror}; free some space "
                f"there or make it writable. The rows of all complete rounds are in {folder}"
            ) from error
        raise
    progress.finished()


def _rounds(grid: Grid, config: RunConfig, place: Place, nodes: list[int], known: Agreed) -> None:
    """Meet the silos, run the strategy, and save what it made."""
    journal, past, method = place.journal, place.past, method_of(config)
    recorder = Recorder(journal, config, local=_local_baselines(config, known.silos))
    experts = lay_out(config, _saying(recorder.progress))
    base = experts.backbone.fingerprint
    journal.annotate(base=base, bank=known.bank)
    at = Standing(Bank.start(experts.initial(config.output.seed), alive=config.em.k_init))
    first = place.greeting(-1)
    if past:
        at.restore(past.saved.parts["bank"])
        first = place.greeting(past.saved.round, again=True)
        if method.shared:
            put_bank(first, at.sent or at.bank.living())
    round_ = past.saved.round if past else 0
    met = meet(
        *(grid, config, nodes, base, recorder), round_=round_, first=first, later=place.greeting
    )
    membership = met.membership
    least = config.output.c_min if config.output.reporting == "aggregate" else 1
    rows = past.rows if past else known.rows(least=least, present=membership.present.names)
    strategy = FedVEMoE(config, method, at.bank, membership, rows, recorder)
    sums = summing(grid, config, membership, known.silos, recorder.progress)
    noise = noised(sums, config, membership)
    facts = {"base": base, "bank": known.bank, "rows": asdict(rows)}
    parts = place.parts(strategy.parts, sums, noise, facts, membership)
    if past:
        past.saved.restore(parts)
        strategy.crowds.left(place.reunited(config, met, recorder, noise))
    strategy.done = past.saved.round if past else -1
    strategy.ended = lambda round_: place.checkpoints.save(round_, parts)
    strategy.start(noise or sums)
    if not method.shared:
        write_baselines(recorder.baselines(), journal.folder, config.method.out_json)
        return
    experts.load(strategy.bank.experts)
    for slot in strategy.bank.slots:
        experts.save(slot, journal.folder / "experts" / f"slot_{slot:02d}")


def lay_out(config: RunConfig, building: Building | None = None) -> Experts:
    """Return the bank's experts on the base's skeleton, building an embedded base if need be.

    Raises
    ------
    BaseModelError, SettingError
        If there is no such base, or it has no such target modules.
    """
    base = skeleton(locate(config.model.model_name, building))
    return experts_on(base, config.model, config.em.k_max)


def _saying(progress: Progress) -> Building:
    """Return a callback that tells log and progress every 50 steps of building a base."""

    def building(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            LOG.info("building the base model: step %d of %d, loss %.2f", step, steps, loss)
            progress.message(f"building the base model: step {step} of {steps}")

    return building


def _local_baselines(config: RunConfig, silos: Sequence[str]) -> dict[str, float]:
    path = config.evaluation.local_baseline_json
    return read_baselines(Path(path), silos).references() if path else {}
