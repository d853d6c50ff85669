"""The settings of a run: defaults, the alias, and what does not go together."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from fedvemoe_app.config import RunConfig
from fedvemoe_app.errors import SettingError
from fedvemoe_app.settings import leaves

LEAVES = list(leaves(RunConfig))


def test_the_defaults_make_a_whole_round_trip() -> None:
    config = RunConfig()
    assert RunConfig.from_flat({}) == config
    assert RunConfig.from_flat(config.to_flat()) == config


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_every_default_is_accepted_by_its_own_setting(leaf) -> None:
    assert leaf.check(leaf.default) == leaf.default
    assert type(leaf.default) is leaf.kind
    assert leaf.meaning
    assert leaf.group


def test_keys_are_unique() -> None:
    assert len({leaf.key for leaf in LEAVES}) == len(LEAVES) == len(RunConfig().to_flat())


def test_changed_settings_make_the_round_trip_too() -> None:
    changed = {
        "model-name": "some/model", "use-4bit": True, "k-init": 3, "top-m": 1, "seed": 7,
        "learning-rate": 1, "client-task-mode": "explicit", "assignment-file": "silos.toml",
    }  # fmt: skip
    config = RunConfig.from_flat(changed)
    assert RunConfig.from_flat(config.to_flat()) == config
    assert {key: config.to_flat()[key] for key in changed} == changed


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        RunConfig().em.k_init = 5  # type: ignore[misc]


def test_base_model_is_another_name_for_model_name() -> None:
    config = RunConfig.from_flat({"base-model": "some/model"})
    assert config.model.model_name == "some/model"
    assert RunConfig.from_flat(config.to_flat()) == config
    both = {"base-model": "some/model", "model-name": "some/model"}
    assert RunConfig.from_flat(both) == config


def test_the_two_names_must_not_disagree() -> None:
    with pytest.raises(SettingError, match=r'"a/one".*"another/two" disagree: set only one'):
        RunConfig.from_flat({"base-model": "a/one", "model-name": "another/two"})


def test_lists_are_read_from_text() -> None:
    config = RunConfig.from_flat(
        {"keyword-categories": " code, rewriting ,", "target-modules": "q_proj, v_proj"}
    )
    assert config.data.categories == ("code", "rewriting")
    assert config.model.targets == ("q_proj", "v_proj")
    assert RunConfig().model.targets == "all-linear"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"k-init": 20}, "k-init = 20 exceeds k-max = 12: raise k-max"),
        ({"top-m": 13}, "top-m = 13 exceeds k-max = 12"),
        ({"privacy": "hope"}, 'privacy = "hope": must be one of: secagg, sim, none'),
        ({"client-task-mode": "explicit"}, "needs assignment-file"),
        ({"keyword-categories": " , "}, "keyword-categories is empty"),
        ({"target-modules": ""}, "target-modules is empty"),
        ({"model-name": ""}, "model-name is empty"),
        (
            {"use-4bit": True, "use-8bit": True},
            "use-4bit = true and use-8bit = true: a base is held in one way; set one of them",
        ),
        ({"run-name": "../elsewhere"}, 'run-name = "../elsewhere": must be one folder name'),
        ({"run-name": ".."}, 'run-name = "..": must be one folder name'),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_fix(flat, message: str) -> None:
    with pytest.raises(SettingError) as error:
        RunConfig.from_flat(flat)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"k_init": 3}, "unknown setting k_init; did you mean k-init?"),
        ({"learning-rte": 3}, "unknown setting learning-rte; did you mean learning-rate?"),
        ({"seed": True}, "seed = true: must be of type int"),
        ({"rho": 1.5}, "rho = 1.5: must be at least 0 and at most 1"),
        ({"dtype": "int8"}, "must be one of: auto, float32"),
    ],
)
def test_errors_name_the_key_the_value_and_the_fix(flat, message: str) -> None:
    with pytest.raises(SettingError) as error:
        RunConfig.from_flat(flat)
    assert message in str(error.value)
