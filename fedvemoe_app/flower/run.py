"""A whole run on the server: checks before anything long, the rounds, and what they leave."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import RunError, SettingError
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.agreed import Agreed, agreed
from fedvemoe_app.flower.baselines import check_target, write_baselines
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.consortium import (
    Consortium,
    introduce,
    require,
    sample_size,
    wait_for_nodes,
)
from fedvemoe_app.flower.epsilon import Spending
from fedvemoe_app.flower.membership import Membership
from fedvemoe_app.flower.noised import NoisedGrid
from fedvemoe_app.flower.one_reply import OneReplyGrid, Tally
from fedvemoe_app.flower.privacy import check_dp, fitted, warn_of_dp
from fedvemoe_app.flower.recorder import Recorder
from fedvemoe_app.flower.secure import SecureGrid
from fedvemoe_app.flower.strategy import FedVEMoE
from fedvemoe_app.flower.summing import SummingGrid
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
from fedvemoe_app.secagg.roster import Roster, read_roster
from fedvemoe_app.secagg.simulated import simulated_roster
from fedvemoe_app.silo import experts_on
from fedvemoe_app.strategies.registry import method_of, remarks, settle

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
    nodes = wait_for_nodes(grid, config.rounds.min_silos, config.rounds.phase_timeout)
    config = fitted(config, len(nodes))
    known = check(config, len(nodes))
    journal = Journal.create(
        Path(config.output.log_dir).absolute(),
        config.output.run_name,
        config.to_flat(),
        manifest({"silos": len(nodes), "seed": config.output.seed, "code": code_hash()}),
    )
    LOG.info("results go to %s", journal.folder)
    progress = Progress(journal.folder)
    trackers = Trackers(config.output.trackers, journal.folder, config.to_flat())
    journal.watchers.append(trackers)
    with _ending(progress), closing(trackers):
        _rounds(grid, config, journal, nodes, known)
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


def _rounds(
    grid: Grid, config: RunConfig, journal: Journal, nodes: list[int], known: Agreed
) -> None:
    """Meet the silos, run the strategy, and save what it made."""
    recorder = Recorder(
        journal,
        config,
        local=_local_baselines(config, known.silos),
    )
    experts = lay_out(config, _saying(recorder.progress))
    base = experts.backbone.fingerprint
    journal.annotate(base=base, bank=known.bank)
    membership = _meet(grid, config, nodes, base, recorder)
    bank = Bank.start(experts.initial(config.output.seed), alive=config.em.k_init)
    method = method_of(config)
    least = config.output.c_min if config.output.reporting == "aggregate" else 1
    rows = known.rows(least=least, present=membership.present.names)
    strategy = FedVEMoE(config, method, bank, membership, rows, recorder)
    roster = _roster(config, known.silos)
    summing = _summing(grid, config, membership, roster, recorder.progress)
    strategy.start(_noised(summing, config, membership))
    if not method.shared:
        write_baselines(recorder.baselines(), journal.folder, config.method.out_json)
        return
    experts.load(strategy.bank.experts)
    for slot in strategy.bank.slots:
        experts.save(slot, journal.folder / "experts" / f"slot_{slot:02d}")


def _summing(
    grid: Grid, config: RunConfig, membership: Membership, roster: Roster, progress: Progress
) -> OneReplyGrid:
    """Return the grid that forms sums as ``privacy`` says."""
    output, names, message_mb = config.output, membership.names, config.rounds.message_mb
    if output.privacy == "none":
        return SummingGrid(grid, names, message_mb=message_mb, replied=progress.reply)
    return SecureGrid(
        grid,
        names,
        roster,
        masked=output.privacy == "secagg",
        bits=output.secagg_bits,
        min_survivors=output.min_survivors,
        confirm=output.confirm,
        message_mb=message_mb,
        replied=progress.reply,
    )


def _noised(inner: OneReplyGrid, config: RunConfig, membership: Membership) -> OneReplyGrid:
    """Return the grid that asks for noise and keeps the account; without dp, ``inner`` itself."""
    if not config.dp.on:
        return inner
    return NoisedGrid(
        inner,
        membership.names,
        config.dp,
        config.output.min_survivors,
        config.output.secagg_bits,
    )


def _roster(config: RunConfig, silos: Sequence[str]) -> Roster:
    """Return the identity keys of all silos: the consortium's, or those of a simulation."""
    output = config.output
    if output.roster:
        return read_roster(output.roster, output.consortium_key)
    return simulated_roster(silos, output.seed)


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


def _meet(
    grid: Grid, config: RunConfig, nodes: list[int], base: str, recorder: Recorder
) -> Membership:
    """Return the silos that agree with the server on code and base; RunError for too few."""

    def meet(nodes: Sequence[int], round_: int) -> tuple[Consortium, Tally]:
        recorder.phase("hello", round_, len(nodes))
        met, tally = introduce(grid, nodes, base, timeout=float(config.rounds.phase_timeout))
        recorder.exchanged("hello", round_, tally)
        return met, tally

    def welcome(newcomers: Sequence[int], round_: int) -> Consortium:
        try:
            return meet(newcomers, round_)[0]
        except RunError as error:  # newcomers that spoil it for themselves cost no one else
            LOG.warning("round %d: no newcomer was met: %s", round_, error)
            return Consortium({})

    consortium, tally = meet(nodes, 0)
    require(tally, config.rounds.min_silos, "phase hello")
    return Membership(consortium, nodes, welcome)


def _local_baselines(config: RunConfig, silos: Sequence[str]) -> dict[str, float]:
    path = config.evaluation.local_baseline_json
    return read_baselines(Path(path), silos).references() if path else {}
