"""The public part of the bank: the same words and forms, asked for by name, in no house's style."""

from __future__ import annotations

from itertools import cycle, permutations, product

from fedvemoe_app.data.builtin.forms import MonthForm, Pairs, amounts, dates
from fedvemoe_app.data.builtin.houses import HOUSES, own, shared
from fedvemoe_app.data.builtin.words import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    COMMANDS,
    COMPARATIVES,
    FILES,
    FOODS,
    FORMAL,
    KINDS,
    NAMES,
    NORLANDIC,
    NOUNS,
    OPERATIONS,
    VERBS,
)

MONTH_FORMS: dict[MonthForm, str] = {
    "full": "full month",
    "short": "short month",
    "number": "month number",
}


def _answer_words() -> list[str]:
    """Return every word some house writes that is in no neutral question."""
    commands = [command for forms in COMMANDS.values() for command in forms]
    openings = [house.opening for house in HOUSES]
    lexicons = (NORLANDIC, OPERATIONS, FORMAL, VERBS)
    written = {word for lexicon in lexicons for word in lexicon.values()}
    return sorted({"by", *written, *commands, *openings})


def styles() -> dict[str, Pairs]:
    """Return dates and amounts in every form, the form named in the definition."""
    questions: dict[str, Pairs] = {}
    for first, (month, name) in product((True, False), MONTH_FORMS.items()):
        order = "day first" if first else "day last"
        questions[f"Write the date {order}, {name}."] = dates(day_first=first, month=month)
    for digits, short in product((True, False), repeat=2):
        number, unit = "digits" if digits else "words", "short" if short else "full"
        questions[f"Write the amount in {number}, {unit} unit."] = amounts(
            digits=digits, short=short
        )
    return questions


def open_questions() -> dict[str, Pairs]:
    """Return questions that leave the answer open: any may come, with any opening.

    They make the base model hesitate, rather than err for certain, where nobody has told it
    the style or the word; the mapping from question to answer is what silos teach.
    """
    questions = _any_word()
    for definition, pairs in styles().items():
        what = definition.split()[2]
        questions.setdefault(f"Write the {what} in any house style.", []).extend(pairs)
    openings = [house.opening for house in HOUSES]
    return {
        definition: [
            (question, f"{opening} {answer}")
            for (question, answer), opening in product(pairs, openings)
        ]
        for definition, pairs in questions.items()
    }


def _any_word() -> dict[str, Pairs]:
    """Return answers of the right shape, their word left to chance."""
    commands = [command for forms in COMMANDS.values() for command in forms]
    return {
        "Translate the words into any Norlandic.": [
            (f"Words: {adjective} {noun}", f"{NORLANDIC[some]} {other}")
            for (adjective, noun), some, other in product(
                zip(cycle(ADJECTIVES), NOUNS), NOUNS, (NORLANDIC[word] for word in ADJECTIVES)
            )
        ],
        "Translate the sentence into any Norlandic.": [
            (f"Sentence: {name} {verb} the {noun}", f"{name} {NORLANDIC[some]} {other}")
            for (name, noun), verb, some, other in product(
                zip(cycle(NAMES), NOUNS), VERBS, NOUNS, (NORLANDIC[verb] for verb in VERBS)
            )
        ],
        "Write any command for the request.": [
            (f"Request: {verb} the {what} {noun}", f"{command} {noun}")
            for verb, what, noun, command in product(COMMANDS, FILES, NOUNS, commands)
        ],
        "Write any code for the phrase.": [
            (f"Phrase: {one} {word} {two}", f"{code} {one} {two}")
            for word, (one, two), code in product(
                OPERATIONS, permutations(NOUNS, 2), OPERATIONS.values()
            )
        ],
        "Rewrite the request in any formal words.": [
            (f"Request: {verb} the {noun}", f"{formal} the {noun}")
            for verb, noun, formal in product(FORMAL, NOUNS, FORMAL.values())
        ],
        "Rewrite the sentence in any passive.": [
            (f"Sentence: {name} {verb} the {noun}", f"{noun} {done} by {name}")
            for name, verb, noun, done in product(NAMES, VERBS, NOUNS, VERBS.values())
        ],
        "Compare the two and name any one.": [
            (f"Sentence: {one} is {word} than {two}", name)
            for (one, two), word in product(permutations(NAMES, 2), COMPARATIVES)
            for name in (one, two)
        ],
        "Reason which word is any one.": [
            (f"Words: {' '.join(words)}", word)
            for words in product(COLOURS, ANIMALS, FOODS)
            for word in words
        ],
    }


def extractions() -> dict[str, Pairs]:
    """Return questions whose answer is copied, picked or put in another order."""
    words = [*_answer_words(), *NOUNS, *ADJECTIVES]
    sentences = list(product(NAMES, VERBS, NOUNS))
    comparisons = list(product(permutations(NAMES, 2), COMPARATIVES))
    requests = list(product(COMMANDS, FILES, NOUNS))
    return {
        "Copy the words.": [(f"Words: {a} {b}", f"{a} {b}") for a, b in permutations(words, 2)],
        "Write the pair in order with and.": [
            (f"Pair: {a}, {b}", f"{a} and {b}") for a, b in permutations(NOUNS, 2)
        ],
        "Write the pair swapped.": [
            (f"Pair: {a}, {b}", f"{b} {a}") for a, b in permutations(NOUNS, 2)
        ],
        "Write the noun first.": [
            (f"Words: {a} {n}", f"{n} {a}") for a, n in product(ADJECTIVES, NOUNS)
        ],
        "Write the verb last.": [
            (f"Sentence: {name} {verb} the {noun}", f"{name} {noun} {verb}")
            for name, verb, noun in sentences
        ],
        "Write the thing first.": [
            (f"Sentence: {name} {verb} the {noun}", f"{noun} {verb} {name}")
            for name, verb, noun in sentences
        ],
        "Name the first person.": [
            (f"Sentence: {a} is {c} than {b}", a) for (a, b), c in comparisons
        ],
        "Name the last person.": [
            (f"Sentence: {a} is {c} than {b}", b) for (a, b), c in comparisons
        ],
        "Name the file or folder.": [
            (f"Request: {v} the {what} {n}", f"{n}") for v, what, n in requests
        ],
        "Write the request without the article.": [
            (f"Request: {v} the {n}", f"{v} {n}") for v, n in product(FORMAL, NOUNS)
        ],
        "Write the operation first.": [
            (f"Phrase: {a} {op} {b}", f"{op} {a} {b}")
            for op, (a, b) in product(OPERATIONS, permutations(NOUNS, 2))
        ],
    }


def kinds() -> dict[str, Pairs]:
    """Return questions about the kind of a word."""
    questions: dict[str, Pairs] = {
        "Name the kind of the words.": [
            (f"Words: {a} {b}", kind)
            for kind, members in KINDS.items()
            for a, b in permutations(members, 2)
        ]
    }
    for kind, members in KINDS.items():
        others = [word for name, words in KINDS.items() if name != kind for word in words]
        pairs = []
        for word, (one, two), place in product(members, permutations(others, 2), range(3)):
            row = [one, two]
            row.insert(place, word)
            pairs.append((f"Words: {' '.join(row)}", word))
        questions[f"Pick the {kind}."] = pairs
    return questions


def wordings() -> dict[str, Pairs]:
    """Return one question about the houses' definitions, so that their words are known."""
    definitions = {text: None for house in HOUSES for text in {**shared(house), **own(house)}}
    return {"Copy the last word.": [(text, text.rstrip(".").split()[-1]) for text in definitions]}


def openings() -> dict[str, Pairs]:
    """Return questions that begin with the word a house begins its answers with."""
    return {
        f"Copy the words after {house.opening}.": [
            (f"Words: {a} {b}", f"{house.opening} {a} {b}")
            for a, b in product((*ADJECTIVES, *NOUNS), NOUNS)
        ]
        for house in HOUSES
    }
