"""Whether an identified object is something that the prompt names (paper §3.2, semantic grounding). English only.

A prompt's keywords are the nouns of its noun phrases, found without a parser: a phrase is what stands between
prepositions, articles, conjunctions, verbs, participles and punctuation (`vocabulary.toml`). Colours, sizes, numbers,
materials and other descriptions are left out, and so are words that name no thing (image, background, something) and
what follows "no" or "without".

    a microwave hidden by a horse        microwave, horse
    two red fire hydrants                fire hydrant
    a wooden chair without a cushion     chair

A label matches if a *head* of its main phrase (the last noun: "horse" in "a grey horse with a long tail") and a
keyword are the same word in singular or plural, or stand together in the table of synonyms. The main phrase ends
where a place, an activity or company begins, so that "the floor beneath the horse" is a floor. Both sides of "and"
and "of" and an owner have heads ("a cup of coffee", "the horse's legs"), and of written-apart compounds either half
may be named. Where a prompt names no person, clothing and held things count: a dress implies a person.

It leans towards matching: a false match only leaves a score as the judge stated it. Where it cannot decide it does not
decide, see `comparable`.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from attrs import frozen

from srum_core.errors import ConfigError
from srum_core.runs.files import read_text

_TABLE = tomllib.loads((files("srum_judges.rules") / "vocabulary.toml").read_text(encoding="utf-8"))
WORDS = {role: frozenset(words.split()) for role, words in _TABLE["words"].items()}
_SINGULARS: list[tuple[str, str]] = _TABLE["singulars"]
_IRREGULAR: dict[str, str] = dict(pair.split("/") for pair in WORDS["irregular"])
_EMPTY = WORDS["empty"] | WORDS["open"]
_KINDS = {
    **dict.fromkeys(_EMPTY | WORDS["ing_and_ed_nouns"], "word"),
    **dict.fromkeys(WORDS["passing"] | WORDS["joining"], "pass"),
    **dict.fromkeys(WORDS["closing"] | WORDS["actions"], "close"),
    **dict.fromkeys(WORDS["telling"], "told"),
    **dict.fromkeys(WORDS["negations"], "absent"),
}
_SIGNS = str.maketrans({"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "‘": "'", "’": "'", "‐": "-", "‑": "-"})
_DESCRIBING = re.compile(  # compounds that describe something: cat-shaped, hand-painted, close-up, black-and-white
    r"(?<![^\W_])[^\W_]++-(?:like|shaped|colou?red|sized|style|themed|free|[^\W_]+ing|[^\W_]+ed)\b"
    r"|(?<![^\W_])[^\W_]++(?:-[^\W_]+)*-(?:up|down|in|out|on|off|over|to|of|and)\b(?:-[^\W_]+)*|\bclose up\b"
)
_TOKEN = re.compile(r"[^\W_]+n't\b|[^\W_]+|'s\b|[^\w\s]")
_LONGEST_LABEL = 500
"""Characters that are used; longer text adds nothing about the object."""


@frozen(eq=False)
class Synonyms:
    """Words for the same thing and for kinds of a thing: `synonyms.txt`, and the user's file on top."""

    places: Mapping[str, frozenset[tuple[int, int]]]
    """Of every word, in the singular: the number of each line it stands in, and its side: 1 = general, -1 = a kind of
    it, 0 = the line has no sides."""
    longest: int
    """Words of the longest entry."""

    @staticmethod
    @lru_cache(maxsize=16)
    def load(path: str = "") -> Synonyms:
        """The packaged table, with the lines of a file added. Raises ConfigError for a file that cannot be used."""
        texts = [("synonyms.txt", (files("srum_judges.rules") / "synonyms.txt").read_text(encoding="utf-8"))]
        if path:
            try:
                texts.append((path, read_text(Path(path))))
            except ConfigError as error:
                raise ConfigError(
                    f'The file of synonyms "{path}" is no readable UTF-8 text file: {error}. '
                    "Check the option `synonyms`."
                ) from error
        lines = [(name, *line) for name, text in texts for line in enumerate(text.splitlines(), 1)]
        places: dict[str, frozenset[tuple[int, int]]] = {}
        for group, (name, number, line) in enumerate(lines):
            for term, side in _entries(line, f"{name}, line {number}"):
                places[term] = places.get(term, frozenset()) | {(group, side)}
        return Synonyms(places, max(len(term.split()) for term in places))

    def same(self, one: str, other: str) -> bool:
        """Whether one matches the other."""
        theirs = self._of(other)
        return not forms(one).isdisjoint(forms(other)) or any((line, -side) in theirs for line, side in self._of(one))

    def _of(self, term: str) -> set[tuple[int, int]]:
        return {place for form in forms(term) for place in self.places.get(form, ())}


def _entries(line: str, where: str) -> Iterator[tuple[str, int]]:
    """The words of a line and their sides. Raises ConfigError."""
    if not line.strip() or line.lstrip().startswith("#"):
        return
    sides = [[" ".join(term.lower().replace("-", " ").split()) for term in side.split(",")] for side in line.split(":")]
    if len(sides) > 2 or not all(term for side in sides for term in side) or sum(map(len, sides)) < 2:
        raise ConfigError(
            f'{where}, is no group of synonyms: "{line.strip()[:60]}". Write "a, b, c", or '
            '"general: kind, kind", at least two words a line and something between commas.'
        )
    signs = (1, -1) if len(sides) == 2 else (0,)
    yield from ((term, sign) for terms, sign in zip(sides, signs, strict=True) for term in terms)


@frozen
class _Phrase:
    """Words between two separators."""

    things: tuple[str, ...]  # its words, without descriptions
    units: tuple[str, ...]  # what can name a thing: words, and entries of the table of synonyms such as "fire hydrant"
    joined: tuple[str, ...]  # neighbouring words written together: "tea cup" is a teacup
    before: frozenset[str]  # what separates it from the phrase before: words, and what they do
    absent: bool  # the text says that it is absent


def readable(text: str) -> bool:
    """Whether all letters are Latin: only then can English words be matched."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha() and not letter.isascii())


def keywords(prompt: str, known: Synonyms) -> tuple[str, ...]:
    """The keywords of the prompt in its own words and order, lower case; () where none is found."""
    return tuple(
        dict.fromkeys(unit for phrase in _phrases(prompt, known) if not phrase.absent for unit in phrase.units)
    )


def comparable(prompt: str, label: str, known: Synonyms) -> bool:
    """Whether the matcher applies: both are in Latin letters, and the prompt names things, not just "objects"."""
    if not (readable(prompt) and readable(label[:_LONGEST_LABEL]) and keywords(prompt, known)):
        return False
    return not any(phrase.things and WORDS["open"].issuperset(phrase.things) for phrase in _phrases(prompt, known))


def names(prompt: str, label: str, known: Synonyms) -> bool:
    """Whether the prompt names the label's object; False for an empty label."""
    phrases = _phrases(prompt, known)
    wanted = [word for phrase in phrases if not phrase.absent for word in (*phrase.units, *phrase.joined)]
    unwanted = {form for phrase in phrases if phrase.absent for word in phrase.units for form in forms(word)}

    def named(heads: Sequence[str]) -> bool:
        return any(known.same(head, word) for head in heads if unwanted.isdisjoint(forms(head)) for word in wanted)

    def names_person(words: Sequence[str]) -> bool:
        return any(known.same(word, "person") for word in words)

    heads, held = _heads(label, known)
    return named(heads) or (names_person(heads) and not names_person(wanted) and named(held))


def _heads(label: str, known: Synonyms) -> tuple[list[str], list[str]]:
    """The objects of the label's main phrase, and those that they wear or hold."""
    heads: list[str] = []
    vague = False  # "the background" alone names no object
    for phrase in _phrases(label[:_LONGEST_LABEL], known):
        closes = not phrase.before.isdisjoint(("close", "told", "absent"))
        if closes and (heads or (vague and "told" not in phrase.before)):  # "the image shows a …" continues
            held = not phrase.absent and not phrase.before.isdisjoint(WORDS["holding"])
            return heads, list(phrase.units[-1:]) if held else []
        vague = vague or not _EMPTY.isdisjoint(phrase.things)
        if phrase.units and not phrase.absent:
            *others, head = phrase.units
            heads += [head, *phrase.joined[-1:], *(others[-1:] if head in WORDS["parts"] else [])]
            if head in WORDS["copies"]:
                break
    return heads, []


@lru_cache(maxsize=256)
def _phrases(text: str, known: Synonyms) -> tuple[_Phrase, ...]:
    phrases: list[_Phrase] = []
    run: list[str] = []
    before: set[str] = set()
    absent = False
    for token, following in pairwise([*_tokens(text, known), ".", "."]):
        kind = _kind(token, following)
        if kind == "word":
            run.append(token)
            continue
        if run:
            phrases.append(_phrase(run, frozenset(before), token, absent))
            run, before, absent = [], set(), absent and token in ("or", "nor")
        before |= {kind, token}
        absent = absent or kind == "absent"
    return tuple(phrases)


def _tokens(text: str, known: Synonyms) -> Iterator[str]:
    """Words, signs, and words that make an entry of the table of synonyms in one; lower case, without accents."""
    marked = unicodedata.normalize("NFKD", text.lower().translate(_SIGNS))
    plain = "".join(letter for letter in marked if not unicodedata.combining(letter))
    plain = _DESCRIBING.sub(" ", " ".join(plain.split()))
    words = _TOKEN.findall(re.sub(r"(?<=[^\W_])-(?=[^\W_])", " ", plain))
    start = 0
    while start < len(words):
        ends = range(min(start + known.longest, len(words)), start + 1, -1)
        in_table = (end for end in ends if not forms(" ".join(words[start:end])).isdisjoint(known.places))
        end = next(in_table, start + 1)
        yield " ".join(words[start:end])
        start = end


def _kind(token: str, following: str) -> str:
    """The role of a token: "word" (part of a phrase), or how it separates: "pass", "close", "told", "absent"."""
    if token == "made" and following in ("of", "from", "out"):
        return "absent"
    if token in _KINDS or " " in token:
        return _KINDS.get(token, "word")
    if token.endswith("n't") or not token[0].isalnum() or (len(token) > 4 and token.endswith("ing")):
        return "close"
    if token in WORDS["participles"] or (len(token) > 3 and token.endswith("ed")):
        describes = following[:1].isalnum() and _kind(following, "") == "word"  # "a snow covered mountain"
        return "pass" if describes else "close"
    return "word"


def _phrase(run: Sequence[str], before: frozenset[str], after: str, absent: bool) -> _Phrase:
    things = tuple(word for word in run if not _describes(word))
    predicate = "told" in before and before.isdisjoint(WORDS["passing"])  # "the ball is orange"
    units = tuple(
        thing
        for thing in things
        if thing not in _EMPTY
        and not (thing in WORDS["colours_and_materials"] and (predicate or thing != things[-1]))
        and not (thing in WORDS["of_what"] and after == "of" and thing == run[-1])
    )
    joined = tuple(one + other for one, other in pairwise(run)) if units else ()
    return _Phrase(things, units, joined, before, absent)


def _describes(word: str) -> bool:
    adverb = word.endswith("ly") and len(word) > 4 and word not in WORDS["ly_nouns"]
    return adverb or word in WORDS["descriptions"] or not word[0].isalpha()


# ---- singular and plural ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def forms(term: str) -> frozenset[str]:
    """A word (or several: the last one counts) as written, and its singular if it can be a plural; words are the same
    if they share a form."""
    start, space, word = term.rpartition(" ")
    return frozenset([term, start + space + _singular(word)])


def _singular(word: str) -> str:
    """The word itself where it is no plural."""
    if word in _IRREGULAR or word in WORDS["no_plural"] or not re.fullmatch("[a-z]{3,40}", word):
        return _IRREGULAR.get(word, word)
    matches = ((re.fullmatch(plural, word), singular) for plural, singular in _SINGULARS)
    return next((match.expand(singular) for match, singular in matches if match), word)
