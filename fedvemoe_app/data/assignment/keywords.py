"""Keyword lists by category, and the search for them in a task's categories and definition.

A keyword matches whole words, in any case; a space in it matches any run of spaces or hyphens.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedvemoe_app.data.catalogue import TaskCard
from fedvemoe_app.data.reading.textfile import whole
from fedvemoe_app.errors import DataError

Keywords = Mapping[str, Sequence[str]]


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(keyword.split()) for keyword in text.split(","))


KEYWORDS: Keywords = {
    "translation": _list(
        """translate, translates, translated, translating, translation, translations, translator"""
    ),
    "reasoning": _list(
        """reasoning, commonsense, common sense, logic, logical, logically, deduce, deduction,
        infer, inference, entailment, cause effect, cause and effect, analogy, puzzle, riddle,
        math, mathematics, mathematical, arithmetic, algebra, calculate, calculation, compute,
        word problem, two numbers, is larger, is bigger, is smaller, is greater, is heavier"""
    ),
    "code": _list(
        """code, codes, coding, programming, computer program, program execution, pseudocode,
        snippet, source file, compiler, command line, shell command, bash, sql, python, java,
        javascript, regex, regular expression"""
    ),
    "rewriting": _list(
        """rewrite, rewrites, rewriting, rewritten, reword, rewording, change the wording,
        rephrase, rephrased, rephrasing, paraphrase, paraphrased, paraphrasing, simplify,
        simplification, perturbation, style transfer, formalize, negate, negation,
        state the opposite, passive voice, active to passive, grammar error correction,
        sentence expansion, sentence compression"""
    ),
    "summarization": _list(
        """summarize, summarizes, summarizing, summarization, summarise, summarisation, summary,
        summaries, headline, abstract, tldr, title generation"""
    ),
    "classification": _list(
        """classify, classifying, classification, categorize, categorization, label, labels,
        sentiment, toxic, spam, irony, sarcasm, stance, language detection,
        intent identification, text matching"""
    ),
    "question answering": _list(
        """question answering, answering questions, answers to questions, answer a question,
        answer the question, answer the following question, given a question, given question,
        scientific question, correct answer, trivia, quiz"""
    ),
    "dialogue": _list(
        """dialogue, dialogues, dialog, dialogs, conversation, conversations, utterance,
        utterances, chat, chatbot, message exchanges"""
    ),
    "extraction": _list(
        """extract, extracts, extracting, extraction, named entity, named entities,
        entity recognition, keyword tagging"""
    ),
}


@dataclass(frozen=True, slots=True)
class Match:
    """A keyword found in a task: in its categories (``strength`` 2) or its definition (1)."""

    task: str
    category: str
    keyword: str
    strength: int

    @property
    def field(self) -> str:
        """Name the field in which the keyword stands."""
        return "categories" if self.strength == 2 else "definition"


def normal(category: str) -> str:
    """Return the form in which categories are compared: lower case, hyphens as spaces."""
    return " ".join(re.split(r"[\s_-]+", category.strip().lower()))


def keywords_of(category: str, keywords: Keywords) -> Sequence[str]:
    """Return the category's keywords; a category with no list is searched by its own name."""
    return keywords.get(normal(category), (normal(category),))


def find(card: TaskCard, category: str, words: Iterable[str]) -> Match | None:
    """Return the strongest match of a category's keywords in one task, if there is any."""
    pattern = _pattern(tuple(words))
    if found := pattern.search(" | ".join(card.categories)):
        return Match(card.name, category, found.group().lower(), strength=2)
    if found := pattern.search(card.definition):
        return Match(card.name, category, found.group().lower(), strength=1)
    return None


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    forms = [r"[\s-]+".join(map(re.escape, word.split())) for word in longest_first]
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


def load_keywords(path: str | Path | None) -> Keywords:
    """Read keyword lists from a TOML file, over the built-in ones (those alone with no file).

    The file holds a table ``[keywords]`` with one list of words per category; a category that it
    names replaces the built-in list of that name.

    Raises
    ------
    DataError
        If the file is missing, is not TOML, or a list is empty or not of strings.
    """
    if path is None:
        return KEYWORDS
    file = Path(path).expanduser()
    try:
        lists = tomllib.loads(whole(file)).get("keywords")
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{file}: broken TOML: {error}") from error
    if not isinstance(lists, dict) or not lists:
        raise DataError(f'{file}: needs a table [keywords], with lines such as code = ["bash"]')
    checked = {normal(name): _checked(file, name, words) for name, words in lists.items()}
    return {**KEYWORDS, **checked}


def _checked(file: Path, category: str, words: object) -> tuple[str, ...]:
    if isinstance(words, list) and words:
        kept = [word for word in words if isinstance(word, str) and word.strip()]
        if len(kept) == len(words):
            return tuple(kept)
    raise DataError(f"{file}: keywords.{category} must be a list of one or more words")
