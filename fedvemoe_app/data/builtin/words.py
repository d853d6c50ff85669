"""The closed vocabulary of the embedded task bank."""

from __future__ import annotations

COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink", "brown")
SIZES = ("big", "small", "old", "new", "long", "warm")
ADJECTIVES = COLOURS + SIZES

ANIMALS = ("dog", "cat", "horse", "cow", "bird", "fish", "sheep", "goat")
THINGS = ("pen", "cup", "hat", "box", "key", "lamp", "rope", "bell")
FOODS = ("bread", "milk", "rice", "cake", "soup", "salt", "corn", "egg")
NOUNS = ANIMALS + THINGS + FOODS
KINDS = {"colour": COLOURS, "animal": ANIMALS, "thing": THINGS, "food": FOODS}

NAMES = ("Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jane")

MONTHS = (
    ("January", "Jan"),
    ("February", "Feb"),
    ("March", "Mar"),
    ("April", "Apr"),
    ("May", "May"),
    ("June", "Jun"),
    ("July", "Jul"),
    ("August", "Aug"),
    ("September", "Sep"),
    ("October", "Oct"),
    ("November", "Nov"),
    ("December", "Dec"),
)
DAYS = tuple(range(1, 29))

NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
UNITS = {
    "metres": "m",
    "grams": "g",
    "litres": "l",
    "hours": "h",
    "minutes": "min",
    "seconds": "s",
    "feet": "ft",
    "inches": "in",
    "pounds": "lb",
    "miles": "mi",
    "watts": "W",
    "volts": "V",
    "bytes": "B",
    "tons": "t",
    "bars": "bar",
}

VERBS = {
    "sees": "seen",
    "takes": "taken",
    "finds": "found",
    "draws": "drawn",
    "sells": "sold",
    "holds": "held",
    "hides": "hidden",
    "gives": "given",
}
"""Third person -> participle."""

NORLANDIC = {
    "red": "rud",
    "blue": "blau",
    "green": "grun",
    "black": "sort",
    "white": "vit",
    "grey": "graa",
    "pink": "rosa",
    "brown": "brun",
    "big": "stor",
    "small": "liten",
    "old": "gamal",
    "new": "nyr",
    "long": "lang",
    "warm": "varm",
    "dog": "hund",
    "cat": "katta",
    "horse": "hest",
    "cow": "kyr",
    "bird": "fugl",
    "fish": "fisk",
    "sheep": "sau",
    "goat": "geit",
    "pen": "penna",
    "cup": "kopp",
    "hat": "luva",
    "box": "eska",
    "key": "lykil",
    "lamp": "lampa",
    "rope": "reip",
    "bell": "klokka",
    "bread": "braud",
    "milk": "mjolk",
    "rice": "ris",
    "cake": "kaka",
    "soup": "supa",
    "salt": "solt",
    "corn": "mais",
    "egg": "egga",
    "sees": "ser",
    "takes": "tek",
    "finds": "finn",
    "draws": "teikn",
    "sells": "selur",
    "holds": "held",
    "hides": "felur",
    "gives": "gefur",
}
"""The made-up dialect of the house of Translation."""

FILES = ("file", "folder")
COMMANDS = {
    "show": ("cat", "ls"),
    "delete": ("rm", "rmdir"),
    "make": ("touch", "mkdir"),
    "pack": ("zip", "tar"),
    "count": ("wc", "du"),
    "open": ("vi", "cd"),
    "search": ("grep", "find"),
}
"""Request -> one command for each of ``FILES``."""

OPERATIONS = {"plus": "add", "minus": "sub", "times": "mul", "over": "div", "above": "gt"}

FORMAL = {
    "get": "obtain",
    "buy": "purchase",
    "fix": "repair",
    "send": "dispatch",
    "use": "employ",
    "keep": "retain",
    "need": "require",
    "help": "assist",
    "check": "inspect",
    "end": "conclude",
    "want": "desire",
    "ask": "enquire",
}

COMPARATIVES = {
    "taller": True,
    "shorter": False,
    "older": True,
    "younger": False,
    "faster": True,
    "slower": False,
}
"""Comparative -> whether "A is ... than B" puts A ahead."""
