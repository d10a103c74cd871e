"""The table of words for the same thing and for kinds of a thing: `synonyms.txt`, and the user's file on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from attrs import define, field

from srum_core.errors import ConfigError
from srum_core.files import read_text
from srum_judges.rules.inflection import forms

_ALL, _GENERAL, _KIND = "all", "general", "kind"
_PARTNERS = {(_ALL, _ALL), (_GENERAL, _KIND), (_KIND, _GENERAL)}


@define(eq=False)
class Synonyms:
    """Which words stand for each other."""

    _places: Mapping[str, frozenset[tuple[int, str]]]
    """Of every word, in the singular: the number of each line it stands in, and where."""
    longest: int = field(init=False)
    """Words of the longest entry."""

    def __attrs_post_init__(self) -> None:
        self.longest = max((len(term.split()) for term in self._places), default=1)

    @staticmethod
    def load(path: str = "") -> Synonyms:
        """The packaged table, with the lines of a file added. Raises ConfigError for a file that cannot be used."""
        return _load(path)

    def knows(self, term: str) -> bool:
        """Whether some form of a word, or of words with spaces, stands in the table."""
        return any(form in self._places for form in forms(term))

    def related(self, one: str, other: str) -> bool:
        """Whether one may stand for the other."""
        return any(
            line == there and (where, elsewhere) in _PARTNERS
            for line, where in self._of(one)
            for there, elsewhere in self._of(other)
        )

    def _of(self, term: str) -> Iterator[tuple[int, str]]:
        return (place for form in forms(term) for place in self._places.get(form, ()))


@lru_cache(maxsize=16)
def _load(path: str) -> Synonyms:
    texts = [("synonyms.txt", (files("srum_judges.rules") / "synonyms.txt").read_text(encoding="utf-8"))]
    if path:
        try:
            texts.append((path, read_text(Path(path))))
        except ConfigError as error:
            raise ConfigError(
                f'The file of synonyms "{path}" is no readable UTF-8 text file: {error}. Check the option `synonyms`.'
            ) from error
    places: dict[str, set[tuple[int, str]]] = {}
    group = 0
    for source, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            group += 1
            for term, where in _entries(line, source, number):
                places.setdefault(term, set()).add((group, where))
    return Synonyms({term: frozenset(found) for term, found in places.items()})


def _entries(line: str, source: str, number: int) -> Iterator[tuple[str, str]]:
    """The words of a line and where each stands. Raises ConfigError."""
    if not line.strip() or line.lstrip().startswith("#"):
        return
    sides = [[" ".join(term.lower().replace("-", " ").split()) for term in side.split(",")] for side in line.split(":")]
    if len(sides) > 2 or not all(term for side in sides for term in side) or sum(map(len, sides)) < 2:
        raise ConfigError(
            f'{source}, line {number}, is no group of synonyms: "{line.strip()[:60]}". Write "a, b, c", or '
            '"general: kind, kind", at least two words a line and something between commas.'
        )
    for side, where in zip(sides, (_ALL,) if len(sides) == 1 else (_GENERAL, _KIND), strict=True):
        yield from ((term, where) for term in side)
