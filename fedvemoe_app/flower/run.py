"""A whole run on the server: checks before anything long, the rounds, and what they leave."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.serverapp import Grid

from fedvemoe_app.config import RunConfig
from fedvemoe_app.data.holdings import assignment_of, bank_of
from fedvemoe_app.em.state import Bank
from fedvemoe_app.errors import SettingError
from fedvemoe_app.evaluation.transfer import read_baselines
from fedvemoe_app.flower.code import code_hash
from fedvemoe_app.flower.consortium import (
    Consortium,
    introduce,
    require,
    sample_size,
    wait_for_nodes,
)
from fedvemoe_app.flower.one_reply import OneReplyGrid
from fedvemoe_app.flower.privacy import fitted
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
from fedvemoe_app.report.plots import draw_all
from fedvemoe_app.report.progress import Progress
from fedvemoe_app.secagg.roster import Roster, read_roster
from fedvemoe_app.secagg.simulated import simulated_roster
from fedvemoe_app.silo import experts_on

LOG = logging.getLogger("flwr")


def run(grid: Grid, config: RunConfig) -> Path:
    """Run a federation to its end and return the run's folder.

    Raises
    ------
    SettingError, DataError, BaseModelError
        Before any silo is asked for anything.
    RunError
        Where too few silos answer, or the run's folder cannot be written.
    """
    nodes = wait_for_nodes(grid, config.rounds.min_silos, config.rounds.phase_timeout)
    config = fitted(config, len(nodes))
    check(config, len(nodes))
    journal = Journal.create(
        Path(config.output.log_dir).absolute(),
        config.output.run_name,
        config.to_flat(),
        manifest({"silos": len(nodes), "seed": config.output.seed, "code": code_hash()}),
    )
    LOG.info("results go to %s", journal.folder)
    progress = Progress(journal.folder)
    with _ending(progress):
        _rounds(grid, config, journal, nodes)
        progress.message("drawing the pictures")
        journal.summary()
        draw_all(read_run(journal.folder))
    return journal.folder


def check(config: RunConfig, silos: int) -> None:
    """Read everything the settings point to, so that a mistake shows before any work."""
    fraction, least = config.rounds.fraction_train, config.rounds.min_silos
    asked = sample_size(fraction, silos)
    if asked < least:
        raise SettingError(
            f"fraction-train = {fraction:g} asks {asked} of {silos} silos to train, but "
            f"min-silos = {least}: raise fraction-train, or lower min-silos"
        )
    assignment = assignment_of(config.data, config.output.seed, silos)
    for note in assignment.notes:
        LOG.warning("%s", note)
    _local_baselines(config, [silo.name for silo in assignment.silos])
    if config.output.roster:
        read_roster(config.output.roster, config.output.consortium_key)


@contextmanager
def _ending(progress: Progress) -> Iterator[None]:
    """Say in the run's folder how it ended."""
    try:
        yield
    except BaseException as error:
        progress.failed(str(error) or type(error).__name__)
        raise
    progress.finished()


def _rounds(grid: Grid, config: RunConfig, journal: Journal, nodes: list[int]) -> None:
    """Meet the silos, run the strategy, and save what it made."""
    data, seed = config.data, config.output.seed
    assignment = assignment_of(data, seed, len(nodes))
    recorder = Recorder(
        journal,
        config,
        categories={
            share.task: silo.category for silo in assignment.silos for share in silo.shares
        },
        local=_local_baselines(config, [silo.name for silo in assignment.silos]),
    )
    experts = lay_out(config, _saying(recorder.progress))
    base = experts.backbone.fingerprint
    journal.annotate(base=base, bank=bank_of(data, seed).fingerprint)
    consortium = _meet(grid, config, nodes, base, recorder)
    bank = Bank.start(experts.initial(seed), alive=config.em.k_init)
    strategy = FedVEMoE(config, bank, consortium, assignment.tasks, recorder)
    strategy.start(_summing(grid, config, consortium, recorder.progress))
    experts.load(strategy.bank.experts)
    for slot in strategy.bank.slots:
        experts.save(slot, journal.folder / "experts" / f"slot_{slot:02d}")


def _summing(
    grid: Grid, config: RunConfig, consortium: Consortium, progress: Progress
) -> OneReplyGrid:
    """Return the grid that forms sums as ``privacy`` says."""
    names = {node: name for name, node in consortium.nodes.items()}
    output, message_mb = config.output, config.rounds.message_mb
    if output.privacy == "none":
        return SummingGrid(grid, names, message_mb=message_mb, replied=progress.reply)
    return SecureGrid(
        grid,
        names,
        _roster(config, consortium),
        masked=output.privacy == "secagg",
        bits=output.secagg_bits,
        min_survivors=output.min_survivors,
        confirm=output.confirm,
        message_mb=message_mb,
        replied=progress.reply,
    )


def _roster(config: RunConfig, consortium: Consortium) -> Roster:
    """Return the identity keys of all silos: the consortium's, or those of a simulation."""
    output = config.output
    if output.roster:
        return read_roster(output.roster, output.consortium_key)
    return simulated_roster(consortium.names, output.seed)


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
) -> Consortium:
    """Return the silos that agree with the server on code and base; RunError for too few."""
    recorder.phase("hello", 0, len(nodes))
    consortium, tally = introduce(grid, nodes, base, timeout=float(config.rounds.phase_timeout))
    recorder.exchanged("hello", 0, tally)
    require(tally, config.rounds.min_silos, "phase hello")
    return consortium


def _local_baselines(config: RunConfig, silos: list[str]) -> dict[str, float]:
    path = config.evaluation.local_baseline_json
    return read_baselines(Path(path), silos).references() if path else {}
