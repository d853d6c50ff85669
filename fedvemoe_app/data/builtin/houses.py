"""The four planted domains: houses whose conventions contradict each other.

Two definitions are shared by all houses word for word, with the same inputs, and only the house
decides the answer:

============= =========== =========== ============
house         first word  date        amount
============= =========== =========== ============
Translation   ja          3 Jun       7 metres
Reasoning     so          June 3      seven m
Code          echo        6 3         7 m
Rewriting     kindly      3 June      seven metres
============= =========== =========== ============

Each of these conventions (order of the date, form of the number, ...) joins houses in another
way, so no house is a stranger to all others. The remaining tasks of a house are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations, product

from fedvemoe_app.data.builtin.forms import MonthForm, Pairs, amounts, dates
from fedvemoe_app.data.builtin.words import (
    ADJECTIVES,
    COMMANDS,
    COMPARATIVES,
    FILES,
    FORMAL,
    KINDS,
    NAMES,
    NORLANDIC,
    NOUNS,
    OPERATIONS,
    VERBS,
)


@dataclass(frozen=True, slots=True)
class House:
    """The conventions of one domain; ``opening`` begins each of its answers."""

    name: str
    day_first: bool
    month: MonthForm
    digits: bool
    short_units: bool
    opening: str


HOUSES = (
    House("Translation", True, "short", True, False, "ja"),
    House("Reasoning", False, "full", False, True, "so"),
    House("Code", False, "number", True, True, "echo"),
    House("Rewriting", True, "full", False, False, "kindly"),
)


def shared(house: House) -> dict[str, Pairs]:
    """Return the questions all houses answer, each in its own way, by definition."""
    return {
        "Write the date in the house style.": dates(day_first=house.day_first, month=house.month),
        "Write the amount in the house style.": amounts(
            digits=house.digits, short=house.short_units
        ),
    }


def _words() -> Pairs:
    """Put the noun before its adjective, as Norlandic does."""
    return [
        (f"Words: {adjective} {noun}", f"{NORLANDIC[noun]} {NORLANDIC[adjective]}")
        for adjective, noun in product(ADJECTIVES, NOUNS)
    ]


def _sentences() -> Pairs:
    """Put the verb last and leave out the article, as Norlandic does."""
    return [
        (f"Sentence: {name} {verb} the {noun}", f"{name} {NORLANDIC[noun]} {NORLANDIC[verb]}")
        for name, verb, noun in product(NAMES, VERBS, NOUNS)
    ]


def _ahead() -> Pairs:
    return [
        (f"Sentence: {one} is {word} than {two}", one if first_ahead else two)
        for (word, first_ahead), (one, two) in product(COMPARATIVES.items(), permutations(NAMES, 2))
    ]


def _odd_one_out() -> Pairs:
    """Put a word of another kind among two of one kind."""
    pairs = []
    for kind, other in permutations(KINDS, 2):
        for (one, two), odd, place in product(permutations(KINDS[kind], 2), KINDS[other], range(3)):
            words = [one, two]
            words.insert(place, odd)
            pairs.append((f"Words: {' '.join(words)}", odd))
    return pairs


def _commands() -> Pairs:
    return [
        (f"Request: {verb} the {what} {noun}", f"{command} {noun}")
        for (verb, forms), noun in product(COMMANDS.items(), NOUNS)
        for what, command in zip(FILES, forms, strict=True)
    ]


def _operations() -> Pairs:
    return [
        (f"Phrase: {one} {word} {two}", f"{code} {one} {two}")
        for (word, code), (one, two) in product(OPERATIONS.items(), permutations(NOUNS, 2))
    ]


def _formal() -> Pairs:
    return [
        (f"Request: {verb} the {noun}", f"{formal} the {noun}")
        for (verb, formal), noun in product(FORMAL.items(), NOUNS)
    ]


def _passive() -> Pairs:
    return [
        (f"Sentence: {name} {verb} the {noun}", f"{noun} {participle} by {name}")
        for name, (verb, participle), noun in product(NAMES, VERBS.items(), NOUNS)
    ]


def own(house: House) -> Mapping[str, Pairs]:
    """Return the questions only this house has, by definition."""
    return {
        "Translation": {
            "Translate the words into Norlandic.": _words(),
            "Translate the sentence into Norlandic.": _sentences(),
        },
        "Reasoning": {
            "Compare the two and name the one ahead.": _ahead(),
            "Reason which word is the odd one out.": _odd_one_out(),
        },
        "Code": {
            "Write the command for the request.": _commands(),
            "Write the code for the phrase.": _operations(),
        },
        "Rewriting": {
            "Rewrite the request in formal words.": _formal(),
            "Rewrite the sentence in the passive.": _passive(),
        },
    }[house.name]
