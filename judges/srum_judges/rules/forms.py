"""Singular and plural: two words are the same if they share a form."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inflect import engine

_LONGEST = 40
"""Letters; what is longer is no word."""


@lru_cache(maxsize=65536)
def forms(term: str) -> frozenset[str]:
    """A word (or several: the last one counts) as written, and its singular if it can be a plural.

    inflect takes "bus" for the plural of "bu": so a singular is added to the word and never put in its place, and "bus"
    and "buses" still meet in "bus".
    """
    start, _, word = term.rpartition(" ")
    if not re.fullmatch("[a-z]{3,}", word) or len(word) > _LONGEST:
        return frozenset([term])
    singular = _inflect().singular_noun(word)
    return frozenset([term, f"{start} {singular}".strip()] if singular else [term])


@lru_cache(maxsize=1)
def _inflect() -> engine:
    from inflect import engine  # slow to import, and most runs of the command line need no plurals

    return engine()
