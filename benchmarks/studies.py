"""The studies of docs/results.md as data: which settings are compared on which bank.

Every variant of a study has the same data, silos, rounds and local steps; what differs is written
beside its label. ``away`` says in which rounds silos are out of reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = bool | int | float | str
Settings = Mapping[str, Value]

METHODS: dict[str, Settings] = {
    "fedvemoe": {},
    "fedvemoe, tuned slot": {"private-slot": "tuned"},
    "fedvemoe, no private slot": {"private-slot": "off"},
    "fedvemoe, no lifecycle": {"lifecycle": False, "private-slot": "off"},
    "local": {"strategy": "local"},
    "fedavg": {"strategy": "fedavg"},
    "fedprox": {"strategy": "fedprox"},
    "fedadam": {"strategy": "fedadam"},
    "fedyogi": {"strategy": "fedyogi"},
    "flwr:FedAvgM": {"strategy": "flwr:FedAvgM"},
    "ditto": {"strategy": "ditto"},
    "ifca, sketch start": {"strategy": "ifca"},
    "ifca, random start": {"strategy": "ifca", "start": "random"},
    "fedem, sketch start": {"strategy": "fedem"},
    "fedem, random start": {"strategy": "fedem", "start": "random"},
}

COMMON: Settings = {"torch-threads": 1, "generate-examples": 4, "trackers": "none"}
EMBEDDED: Settings = {
    "num-server-rounds": 10,
    "local-steps": 20,
    "eval-every": 10,
    "probe-tokens": 500,
}
HOUSES = 4
ROUNDS = 30
LONG: Settings = {
    "num-server-rounds": ROUNDS,
    "local-steps": 10,
    "probe-tokens": 400,
    "eval-every": ROUNDS,
    "private-slot": "off",
    "c-min": 3,
}


@dataclass(frozen=True, slots=True)
class Away:
    """Silos out of reach before round ``first`` and from round ``last`` on."""

    silos: tuple[str, ...] = ()
    first: int = 0
    last: int = 10**9

    def gone(self, silo: str, round_: int) -> bool:
        """Return whether ``silo`` is out of reach in a round."""
        return silo in self.silos and not self.first <= round_ < self.last


@dataclass(frozen=True, slots=True)
class Study:
    """Variants to compare, by label, on one bank with one number of silos."""

    silos: int
    settings: Settings
    variants: Mapping[str, Settings]
    away: Away = Away()
    habits: bool = False
    real_tasks: bool = False
    planted: int | None = None
    seeds: int = 3


def _last_house(silos: int) -> tuple[str, ...]:
    return tuple(f"silo-{number:02d}" for number in range(silos) if number % HOUSES == HOUSES - 1)


def _starts(*numbers: int) -> dict[str, Settings]:
    return {f"k-init {number}": {"k-init": number} for number in numbers}


def _keywords(categories: str) -> Settings:
    return {**EMBEDDED, "keyword-categories": categories, "seq-len": 96, "max-instances": 150}


STUDIES: dict[str, Study] = {
    "embedded": Study(12, EMBEDDED, METHODS),
    "habits": Study(12, EMBEDDED, METHODS, habits=True),
    "tasks-a": Study(
        8, _keywords("translation,reasoning,code,rewriting"), METHODS, real_tasks=True
    ),
    "tasks-b": Study(
        8, _keywords("translation,summarization,sentiment,code"), METHODS, real_tasks=True
    ),
    "size": Study(12, LONG, _starts(1, 3, 7), planted=4, seeds=5),
    "one-domain": Study(
        12,
        {**LONG, "keyword-categories": "translation"},
        _starts(1, 3),
        planted=1,
    ),
    "arrives": Study(
        12, LONG, _starts(3), away=Away(_last_house(12), first=ROUNDS // 4), planted=4
    ),
    "leaves": Study(12, LONG, _starts(4), away=Away(_last_house(12), last=ROUNDS // 4), planted=3),
}
