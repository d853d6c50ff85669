"""The settings reader on a small tree: types, bounds, choices, and errors that name the fix."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fedvemoe_app.errors import SettingError
from fedvemoe_app.settings import flatten, hyphenated, leaves, read, setting


@dataclass(frozen=True)
class Sail:
    sail_area: float = setting(10.0, "square metres", low=0.5, high=40.0)
    colour: str = setting("white", "seen from afar", choices=("white", "red"))
    name: str = setting("", "painted on it")


@dataclass(frozen=True)
class Boat:
    crew: int = setting(2, "people", low=1)
    keel: bool = setting(True, "has one")
    drift: float = setting(0.0, "knots")
    sail: Sail = field(default_factory=Sail)


def test_defaults_stand_where_nothing_is_given() -> None:
    assert read(Boat, {}) == Boat()


def test_given_values_reach_their_place_in_the_tree() -> None:
    boat = read(Boat, {"crew": 5, "sail-area": 20.5, "colour": "red", "keel": False})
    assert boat == Boat(crew=5, keel=False, sail=Sail(sail_area=20.5, colour="red"))


def test_flatten_and_read_are_inverse() -> None:
    boat = Boat(crew=3, drift=-1.5, sail=Sail(name="Argo"))
    assert read(Boat, flatten(boat)) == boat
    assert flatten(boat)["sail-area"] == 10.0


def test_leaves_come_in_order_with_their_group() -> None:
    found = list(leaves(Boat))
    assert [leaf.key for leaf in found] == [
        "crew", "keel", "drift", "sail-area", "colour", "name"
    ]  # fmt: skip
    assert [leaf.group for leaf in found] == ["", "", "", "sail", "sail", "sail"]
    assert [leaf.allowed for leaf in found] == [
        "at least 1", "true | false", "any number", "at least 0.5 and at most 40",
        "white | red", "text",
    ]  # fmt: skip


def test_a_whole_number_is_accepted_for_a_float_and_becomes_one() -> None:
    area = read(Boat, {"sail-area": 20}).sail.sail_area
    assert area == 20.0
    assert type(area) is float


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("crew", True, "int"),
        ("crew", 2.0, "int"),
        ("crew", "2", "int"),
        ("drift", False, "float"),
        ("drift", "fast", "float"),
        ("keel", 1, "bool"),
        ("keel", "true", "bool"),
        ("name", 7, "str"),
        ("name", None, "str"),
    ],
)
def test_a_wrong_type_is_refused_by_key_value_and_type(key: str, value, wanted: str) -> None:
    with pytest.raises(SettingError) as error:
        read(Boat, {key: value})
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
    assert str(error.value) == f"{key} = {shown}: must be of type {wanted}"


@pytest.mark.parametrize("value", [0.5, 40.0, 1])
def test_bounds_include_their_ends(value: float) -> None:
    assert read(Boat, {"sail-area": value}).sail.sail_area == value


@pytest.mark.parametrize("value", [0.49, 40.01, float("nan"), float("inf"), float("-inf")])
def test_values_out_of_bounds_are_refused(value: float) -> None:
    with pytest.raises(SettingError, match=r"^sail-area = .*at least 0\.5 and at most 40$"):
        read(Boat, {"sail-area": value})


def test_a_single_bound_is_said_alone() -> None:
    with pytest.raises(SettingError, match=r"^crew = 0: must be at least 1$"):
        read(Boat, {"crew": 0})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_without_bounds_must_still_be_finite(value: float) -> None:
    with pytest.raises(SettingError, match=r"^drift = "):
        read(Boat, {"drift": value})


def test_a_value_outside_the_choices_is_refused_with_the_choices() -> None:
    with pytest.raises(SettingError, match=r'^colour = "blue": must be one of: white, red$'):
        read(Boat, {"colour": "blue"})


@pytest.mark.parametrize(("key", "near"), [("sail-aera", "sail-area"), ("sail_area", "sail-area")])
def test_an_unknown_key_is_refused_with_the_nearest_known(key: str, near: str) -> None:
    with pytest.raises(SettingError, match=rf"^unknown setting {key}; did you mean {near}\?$"):
        read(Boat, {key: 1})


def test_an_unknown_key_like_no_other_points_to_the_list() -> None:
    with pytest.raises(SettingError, match=r"^unknown setting zzz; see docs/configuration\.md"):
        read(Boat, {"zzz": 1})


def test_names_are_hyphenated() -> None:
    assert hyphenated("sail_area") == "sail-area"
