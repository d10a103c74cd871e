"""Singular and plural: two words are the same if they share a form."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from importlib.resources import files

_TABLE = tomllib.loads((files("srum_judges.rules") / "vocabulary.toml").read_text(encoding="utf-8"))
WORDS = {role: frozenset(words.split()) for role, words in _TABLE["words"].items()}
_SINGULARS: list[tuple[str, str]] = _TABLE["singulars"]
_IRREGULAR: dict[str, str] = dict(pair.split("/") for pair in WORDS["irregular"])


@lru_cache(maxsize=65536)
def forms(term: str) -> frozenset[str]:
    """A word (or several: the last one counts) as written, and its singular if it can be a plural."""
    start, space, word = term.rpartition(" ")
    return frozenset([term, start + space + _singular(word)])


def _singular(word: str) -> str:
    """The word itself where it is no plural."""
    if word in _IRREGULAR or word in WORDS["no_plural"] or not re.fullmatch("[a-z]{3,40}", word):
        return _IRREGULAR.get(word, word)
    matches = ((re.fullmatch(plural, word), singular) for plural, singular in _SINGULARS)
    return next((match.expand(singular) for match, singular in matches if match), word)
