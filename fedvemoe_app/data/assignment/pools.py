"""Which tasks belong to which category, when a task may match several.

The rule: a match in a task's ``Categories`` beats one in its definition; a task that matches
several categories equally goes to the one with the fewest tasks so far, then to the one asked for
first. A category left empty takes a weaker match from a category that keeps another task, and
only where there is none shares a task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from fedvemoe_app.data.assignment.keywords import KEYWORDS, Keywords, Match, find, keywords_of
from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.errors import DataError

Pools = dict[str, list[Match]]
SHOWN = 5


def matches(catalogue: Sequence[TaskCard], categories: Sequence[str], keywords: Keywords) -> Pools:
    """Return, for every category, its match in each task that matches."""
    found: Pools = {}
    for category in categories:
        words = keywords_of(category, keywords)
        tried = (find(card, category, words) for card in catalogue)
        found[category] = [match for match in tried if match]
    return found


def pools(catalogue: Sequence[TaskCard], categories: Sequence[str], keywords: Keywords) -> Pools:
    """Return the tasks of every category, as matches.

    Raises
    ------
    DataError
        If a category matches no task, with the near misses.
    """
    found = matches(catalogue, categories, keywords)
    for category in categories:
        if not found[category]:
            raise DataError(_no_task(catalogue, category, keywords_of(category, keywords)))
    result: Pools = {category: [] for category in categories}
    for claims in _claims(found):
        owner = min(claims, key=lambda match: len(result[match.category]))
        result[owner.category].append(owner)
    for category in categories:
        if not result[category]:
            _fill(category, found[category], result)
    return result


def _claims(found: Pools) -> list[list[Match]]:
    """Return every task's strongest matches, the tasks that one category alone claims first."""
    by_task: dict[str, list[Match]] = {}
    for match in (match for pool in found.values() for match in pool):
        by_task.setdefault(match.task, []).append(match)
    claims = []
    for rivals in by_task.values():
        best = max(match.strength for match in rivals)
        claims.append([match for match in rivals if match.strength == best])
    return sorted(claims, key=lambda rivals: (len(rivals), rivals[0].task))


def _fill(category: str, candidates: Sequence[Match], result: Pools) -> None:
    richest_first = sorted(result.values(), key=len, reverse=True)
    for pool in (pool for pool in richest_first if len(pool) > 1):
        held = {match.task: match for match in pool}
        for match in candidates:
            if match.task in held:
                pool.remove(held[match.task])
                result[category].append(match)
                return
    result[category].extend(candidates)


def _no_task(catalogue: Sequence[TaskCard], category: str, words: Sequence[str]) -> str:
    near = _near_misses(catalogue, words) or [_closest(catalogue, category)]
    return (
        f"keyword-categories: no task matches '{category}' (searched for {', '.join(words)}). "
        f"Near misses: {'; '.join(near[:SHOWN])}. Add a word that does match to a list in "
        "keyword-file, choose another category, or use client-task-mode = explicit"
    )


def _near_misses(catalogue: Sequence[TaskCard], words: Sequence[str]) -> list[str]:
    """Return the tasks in which a keyword is part of a longer word, or nearly a word."""
    near = []
    for card in catalogue:
        for found in _words(card):
            hit = next((word for word in words if word in found), None)
            close = get_close_matches(found, words, n=1, cutoff=0.8)
            if hit or close:
                near.append(f"{card.name} has '{found}' (keyword '{hit or close[0]}')")
                break
    return near


def _closest(catalogue: Sequence[TaskCard], category: str) -> str:
    """Return the known categories, and words of the catalogue, closest to the category's name."""
    vocabulary = {word for card in catalogue for word in _words(card)} | set(KEYWORDS)
    near = get_close_matches(category.lower(), sorted(vocabulary), n=3, cutoff=0.5)
    return f"closest words: {', '.join(near)}" if near else "none"


def _words(card: TaskCard) -> list[str]:
    return re.findall(r"\w+", " ".join((*card.categories, card.definition)).lower())
