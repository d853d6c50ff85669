"""What a silo decides for itself: the modes it accepts, its keys and roster, its sealed memory.

Removed by hand, each turned a test here red: admitting ``none`` and ``sim``; the rule for
messages without a template; sealing the state; the pinned roster.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto

from fedvemoe_app.data.assign import silo_name
from fedvemoe_app.flower.silo.secure import STATE
from fedvemoe_app.secagg.codec import digest
from fedvemoe_app.secagg.keys import unseal
from fedvemoe_app.secagg.memory import Memory
from fedvemoe_app.secagg.roster import Identity, Roster
from fedvemoe_app.secagg.simulated import simulated_identity
from tests.federation import SILOS, Settings, federate
from tests.flower.small_sums import SmallSums, WatchedGrid, equal

QUICK: Settings = {
    "c-min": 1,
    "reporting": "full",
    "start": "none",
    "num-server-rounds": 1,
    "generate-examples": 0,
    "eval-examples": 1,
    "target-modules": "q_proj",
    "probe-tokens": 20,
    "local-steps": 1,
}
LOST = 3


def to_lost(grid: WatchedGrid) -> list[tuple[Message, Message]]:
    return [(m, reply) for m, reply in grid.seen if m.metadata.dst_node_id == LOST]


# The modes that a silo accepts.


@pytest.mark.parametrize("privacy", ["none", "sim"])
def test_a_silo_of_secagg_refuses_weaker_sums(
    privacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch, privacy=privacy)
    sums.silos.contexts[LOST].node_config["accepted-privacy"] = "secagg"
    total, tally = sums.sum()
    assert total["count"] == SILOS - 1
    assert f"privacy = {privacy} is not accepted" in tally.failures["silo-02"]
    ((_, reply),) = to_lost(sums.silos)
    assert reply.has_error()
    assert not reply.has_content()


def test_and_takes_part_in_masked_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch)
    sums.set_everywhere(accepted_privacy="secagg")
    assert sums.sum()[1].failures == {}


def test_leaving_the_template_out_is_no_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch)
    bare = sums.message(LOST, template=None)
    assert "sums" in sums.silos.say(bare).content
    sums.silos.contexts[LOST].node_config["accepted-privacy"] = "secagg, sim"
    reply = sums.silos.say(sums.message(LOST, template=None))
    assert "privacy = none is not accepted" in reply.error.reason
    assert not reply.has_content()


@pytest.mark.parametrize("accepted", ["none", "sim", "sim,none"])
def test_a_silo_may_also_insist_on_the_others(
    accepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch)
    sums.silos.contexts[LOST].node_config["accepted-privacy"] = accepted
    _, tally = sums.sum()
    assert "privacy = secagg is not accepted" in tally.failures["silo-02"]


def test_an_unknown_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch)
    sums.silos.contexts[LOST].node_config["accepted-privacy"] = "secagg, masks"
    said = 'accepted-privacy = "secagg, masks": masks is none of: secagg, sim, none'
    assert said in sums.sum()[1].failures["silo-02"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("require-confirm", True, "this silo demands signed survivors"),
        ("min-silos", SILOS + 1, "a cohort of 4 is below min_silos 5"),
        ("min-survivors", SILOS, "min_survivors 3 is below 4"),
    ],
)
def test_a_silo_refuses_sessions_below_its_own_demands(
    key: str, value: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch)
    sums.silos.contexts[LOST].node_config[key] = value
    total, tally = sums.sum()
    assert reason in tally.failures["silo-02"]
    assert total["count"] == SILOS - 1


@pytest.mark.parametrize(
    ("key", "value"), [("require-confirm", True), ("min-silos", SILOS), ("min-survivors", 3)]
)
def test_and_takes_part_where_they_are_met(
    key: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch, confirm=True)
    sums.set_everywhere(**{key: value})
    assert sums.sum()[1].failures == {}


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("require-confirm", "yes", 'require-confirm = "yes": must be of type bool'),
        ("require-confirm", 1, "require-confirm = 1: must be of type bool"),
        ("reqire-confirm", True, "reqire-confirm; did you mean require-confirm?"),
        ("min-silos", 2, "min-silos = 2: must be at least 3"),
        ("min-silos", "4", 'min-silos = "4": must be of type int'),
        ("min-survivors", 3.5, "min-survivors = 3.5: must be of type int"),
        ("min-survivors", True, "min-survivors = true: must be of type int"),
        ("least-dp-nois", 1.0, "least-dp-nois; did you mean least-dp-noise?"),
        ("least-dp-noise", "abc", 'least-dp-noise = "abc": must be of type float'),
        ("accepted-dp", "locl", 'accepted-dp = "locl": locl is none of: off, central, local'),
        ("reporting", "ful", 'reporting = "ful": must be one of: aggregate, full'),
        ("device", "gpu9", 'device = "gpu9": must be auto, cpu, cuda or cuda:N'),
        ("state-path", "state", 'state-path = "state": must be an absolute path'),
        ("identity-key", "", "identity-key is empty"),
    ],
)
def test_a_demand_that_is_none_says_its_name(
    key: str, value: object, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = SmallSums(monkeypatch)
    sums.silos.contexts[LOST].node_config[key] = value  # type: ignore[assignment]
    _, tally = sums.sum()
    assert tally.answered == SILOS - 1
    if key != "identity-key":  # whose silo, as one of a deployment, says nothing by name
        assert "node config of this silo: " in tally.failures["silo-02"]
        assert fix in tally.failures["silo-02"]


def test_a_run_in_the_clear_goes_on_without_the_silo_that_refuses(
    settings: Callable[..., Settings],
) -> None:
    def prepare(grid: object) -> None:
        grid.contexts[LOST].node_config["accepted-privacy"] = "secagg"  # type: ignore[attr-defined]

    run = federate({**settings(privacy="none"), **QUICK}, prepare=prepare)
    assert {row["numbers"]["silo"] for row in run.events} == {"silo-02"}
    assert {row["client"] for row in run.clients} == {"silo-00", "silo-01", "silo-03"}


# Its memory.


def test_the_state_is_sealed_under_the_identity_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = SmallSums(monkeypatch)
    for _ in range(2):
        sums.sum()
    for node, context in sums.silos.contexts.items():
        identity = simulated_identity(silo_name(node - 1), 0)
        sealed = bytes(context.state.config_records[STATE]["sealed"])  # type: ignore[arg-type]
        opened = unseal(identity.storage_key, sealed, digest("memory"))
        secrets = [
            secret
            for session in Memory.from_bytes(opened).sessions
            for secret in (session.mask_private, session.seed, *session.held.values())
            if secret
        ]
        assert len(secrets) == 3  # its own two of the next sum, its own shares
        state = Message(context.state, node, "train")
        stored = message_to_proto(state).SerializeToString()
        assert sealed in stored
        for secret in secrets:
            assert secret.hex().encode() in opened
            assert secret not in stored
            assert secret.hex().encode() not in stored


# Its keys.


class Keys:
    """Key files of silos, and the roster that a consortium signed."""

    def __init__(self, folder: Path, members: int = SILOS, stolen: str = "") -> None:
        self.folder = folder
        self.consortium = Identity.create("consortium")
        identities = {name: Identity.create(name) for name in map(silo_name, range(SILOS))}
        self.roster = Roster(
            {name: identity.public for name, identity in [*identities.items()][:members]}
        )
        for name, identity in identities.items():
            key = Identity.create(name) if name == stolen else identity
            (folder / f"{name}.pem").write_text(key.to_pem())
        (folder / "roster.json").write_text(self.roster.sign(self.consortium))

    def pin(self, grid: object) -> None:
        """Set every silo's node config."""
        for node, context in grid.contexts.items():  # type: ignore[attr-defined]
            context.node_config |= {
                "identity-key": str(self.folder / f"{silo_name(node - 1)}.pem"),
                "roster": str(self.folder / "roster.json"),
                "consortium-key": self.consortium.public.hex(),
                "reporting": "full",
                "worker": False,
            }


def pinned(patch: pytest.MonkeyPatch, keys: Keys, privacy: str = "secagg") -> SmallSums:
    sums = SmallSums(patch, roster=keys.roster, privacy=privacy)
    keys.pin(sums.silos)
    return sums


def test_a_run_with_keys_from_files(settings: Callable[..., Settings], tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    own = {"roster": str(tmp_path / "roster.json"), "consortium-key": keys.consortium.public.hex()}
    chosen = {**settings(privacy="secagg"), **QUICK, **own}

    def prepare(grid: object) -> None:
        keys.pin(grid)
        paths = {"data-path": chosen["dataset-name"], "model-path": chosen["model-name"]}
        for context in grid.contexts.values():  # type: ignore[attr-defined]
            context.node_config |= paths

    run = federate(chosen, prepare=prepare)
    assert run.events == []
    assert sum(run.rounds[1]["mass"] or ()) == pytest.approx(SILOS)


def test_keys_change_the_masks_and_the_dither_but_not_the_sum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sums = pinned(monkeypatch, Keys(tmp_path))
    total, tally = sums.sum()
    plain = SmallSums(monkeypatch, privacy="none").sum()[0]
    assert tally.failures == {}
    assert not equal(total, plain)
    assert all((total[n] - plain[n]).norm() <= 1e-4 * plain[n].norm() for n in plain)


@pytest.mark.parametrize("privacy", ["none", "sim"])
def test_a_silo_with_a_key_of_its_own_takes_part_in_masked_sums_alone(
    privacy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sums = pinned(monkeypatch, Keys(tmp_path), privacy)
    assert sums.sum()[1].answered == 0


def test_a_silo_whose_key_is_not_in_the_roster_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    total, tally = pinned(monkeypatch, Keys(tmp_path, stolen="silo-02")).sum()
    assert (tally.answered, tally.void) == (SILOS - 1, "")
    assert tally.failures == {"silo-02": "the signature of silo-02 does not hold"}
    assert total["count"] == SILOS - 1


def test_silos_refuse_a_cohort_with_a_stranger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = Keys(tmp_path, members=SILOS - 1)
    sums = pinned(monkeypatch, keys)
    _, tally = sums.sum()
    assert "need 3" in tally.void
    assert "['silo-03'] are not in the pinned roster" in tally.failures["silo-00"]
    assert sums.sum(1, 2, 3)[1].failures == {}


@pytest.mark.parametrize("key", ["identity-key", "roster", "consortium-key"])
def test_a_wrong_file_or_key_says_its_name(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sums = pinned(monkeypatch, Keys(tmp_path))
    sums.silos.contexts[LOST].node_config[key] = "not hex"
    _, tally = sums.sum()
    assert tally.answered == SILOS - 1
    assert f"{key} = not hex" in tally.failures["silo-02"]


def test_a_key_without_a_roster_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sums = pinned(monkeypatch, Keys(tmp_path))
    del sums.silos.contexts[LOST].node_config["roster"]
    reason = sums.sum()[1].failures["silo-02"]
    assert "set its roster and consortium-key too" in reason
