"""Whether what a judge says it sees is something that the prompt names (paper §3.2, semantic grounding). English only.

A prompt's keywords are the nouns of its noun phrases, found without a parser: a phrase is what stands between
prepositions, articles, conjunctions, verbs, participles and punctuation (`vocabulary`). Colours, sizes, numbers,
materials and other descriptions are left out, and so are words that name no thing (picture, background, something) and
what follows "no" or "without".

    a microwave hidden by a horse        microwave, horse
    two red fire hydrants                fire hydrant
    a wooden chair without a cushion     chair

A label matches if a *head* of its main phrase (the last noun: "horse" in "a grey horse with a long tail") and a
keyword are the same word in singular or plural, or stand together in the table of synonyms. The main phrase ends
where a place, an activity or company begins, so that "the floor beneath the horse" is a floor. Both sides of "and"
and "of" and an owner have heads ("a cup of coffee", "the horse's legs"), and of written-apart compounds either half
may be named. Where a prompt names nobody, what somebody wears or holds counts: a dress has to be on somebody.

It leans towards matching: a false match only leaves a score as the judge stated it. Where it cannot tell it does not
decide, see `comparable`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from attrs import frozen

from srum_judges.rules import vocabulary as words
from srum_judges.rules.inflection import forms
from srum_judges.rules.synonyms import Synonyms

__all__ = ["Synonyms", "comparable", "keywords", "names", "readable"]

_SIGNS = str.maketrans({"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "‘": "'", "’": "'", "‐": "-", "‑": "-"})
_DESCRIBING = re.compile(  # compounds that say how something is: cat-shaped, hand-painted, close-up, black-and-white
    r"(?<![^\W_])[^\W_]++-(?:like|shaped|colou?red|sized|style|themed|free|[^\W_]+ing|[^\W_]+ed)\b"
    r"|(?<![^\W_])[^\W_]++(?:-[^\W_]+)*-(?:up|down|in|out|on|off|over|to|of|and)\b(?:-[^\W_]+)*|\bclose up\b"
)
_TOKEN = re.compile(r"[^\W_]+n't\b|[^\W_]+|'s\b|[^\w\s]")
_LONGEST_LABEL = 500
"""Characters that are looked at; what is longer says no more of what a thing is."""
_JOINING = frozenset(",/&+'\"`“”-*_")


@frozen
class _Phrase:
    """Words between two separators."""

    units: tuple[str, ...]
    """What can name a thing: words, and entries of the table of synonyms such as "fire hydrant"."""
    joined: tuple[str, ...]
    """Neighbouring words written together: "tea cup" is a teacup."""
    vague: bool
    """It has words that name no thing by themselves ("the background")."""
    open: bool
    """It is nothing but an object, a thing, a shape: anything may stand for it."""
    closes: bool
    """Whether a main phrase before it is over."""
    told: bool
    """Whether it is what a subject before it is, or shows ("the picture shows a …")."""
    absent: bool
    """It is said not to be there."""
    held: bool
    """Somebody wears or holds it."""


def readable(text: str) -> bool:
    """Whether all letters are Latin: only then can English words be looked for."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha() and not letter.isascii())


def keywords(prompt: str, known: Synonyms | None = None) -> tuple[str, ...]:
    """What the prompt names, in its own words and order, lower case; () where nothing is found."""
    phrases = _said(prompt, known or Synonyms.load())
    return tuple(dict.fromkeys(unit for phrase in phrases if not phrase.absent for unit in phrase.units))


def comparable(prompt: str, label: str, known: Synonyms | None = None) -> bool:
    """Whether the matcher can tell: both are in Latin letters, and the prompt names things, not just "objects"."""
    if not (readable(prompt) and readable(label[:_LONGEST_LABEL]) and keywords(prompt, known)):
        return False
    return not any(phrase.open for phrase in _said(prompt, known or Synonyms.load()))


def names(prompt: str, label: str, known: Synonyms | None = None) -> bool:
    """Whether the prompt names what the label says; False for an empty label."""
    known = known or Synonyms.load()
    phrases = _said(prompt, known)
    wanted = [word for phrase in phrases if not phrase.absent for word in (*phrase.units, *phrase.joined)]
    unwanted = [word for phrase in phrases if phrase.absent for word in phrase.units]

    def named(heads: Sequence[str]) -> bool:
        return any(
            any(_same(head, word) or known.related(head, word) for word in wanted)
            for head in heads
            if not any(_same(head, word) for word in unwanted)
        )

    heads, held = _heads(label, known)
    if named(heads):
        return True
    somebody = any(_person(head, known) for head in heads) and not any(_person(word, known) for word in wanted)
    return somebody and named(held)


def _person(word: str, known: Synonyms) -> bool:
    return _same(word, "person") or known.related(word, "person")


def _same(one: str, other: str) -> bool:
    return not forms(one).isdisjoint(forms(other))


@lru_cache(maxsize=256)
def _said(prompt: str, known: Synonyms) -> tuple[_Phrase, ...]:
    return tuple(_phrases(prompt, known))


def _heads(label: str, known: Synonyms) -> tuple[list[str], list[str]]:
    """What the label's main phrase is about, and what those in it wear or hold."""
    heads: list[str] = []
    vague = False
    for phrase in _phrases(label[:_LONGEST_LABEL], known):
        if phrase.closes and (heads or (vague and not phrase.told)):
            return heads, list(phrase.units[-1:]) if phrase.held and not phrase.absent else []
        vague = vague or phrase.vague
        if phrase.units and not phrase.absent:
            *others, head = phrase.units
            heads += [head, *phrase.joined[-1:], *(others[-1:] if head in words.PARTS else [])]
            if head in words.COPIES:
                break
    return heads, []


def _phrases(text: str, known: Synonyms) -> Iterator[_Phrase]:
    tokens = list(_tokens(text, known))
    run: list[str] = []
    separators: list[str] = []
    absent = held = False
    for token, following in pairwise([*tokens, ".", "."]):
        kind = _kind(token, following)
        if kind == "word":
            run.append(token)
            continue
        if run:
            yield _phrase(run, separators, token, absent, held)
            run, separators, absent, held = [], [], absent and token in ("or", "nor"), False
        separators.append(kind if kind != "pass" else token)
        absent = absent or kind == "absent"
        held = held or token in words.HOLDING


def _tokens(text: str, known: Synonyms) -> Iterator[str]:
    """Words, signs, and words that make an entry of the table of synonyms in one; lower case, without accents."""
    marked = unicodedata.normalize("NFKD", text.lower().translate(_SIGNS))
    plain = "".join(letter for letter in marked if not unicodedata.combining(letter))
    plain = _DESCRIBING.sub(" ", " ".join(plain.split()))
    found = _TOKEN.findall(re.sub(r"(?<=[^\W_])-(?=[^\W_])", " ", plain))
    start = 0
    while start < len(found):
        lengths = range(min(known.longest, len(found) - start), 1, -1)
        length = next((n for n in lengths if known.knows(" ".join(found[start : start + n]))), 1)
        yield " ".join(found[start : start + length])
        start += length


def _kind(token: str, following: str) -> str:
    """What a token does: "word" (part of a phrase), or how it separates: "pass", "close", "told", "absent"."""
    if " " in token or token in words.EMPTY:
        return "word"
    if token in words.NEGATIONS or (token == "made" and following in ("of", "from", "out")):
        return "absent"
    if token in words.TELLING:
        return "told"
    if token in words.CLOSING or token in words.ACTIONS or token.endswith("n't"):
        return "close"
    if token in words.PASSING or token == "'s":
        return "pass"
    if not token[0].isalnum():
        return "pass" if token in _JOINING else "close"
    if len(token) > 4 and token.endswith("ing") and token not in words.ING_NOUNS:
        return "close"
    past = len(token) > 3 and token.endswith("ed") and token not in words.ED_NOUNS
    if past or token in words.PARTICIPLES:
        describes = following[:1].isalnum() and _kind(following, "") == "word"  # "a snow covered mountain"
        return "pass" if describes else "close"
    return "word"


def _phrase(run: Sequence[str], separators: Sequence[str], after: str, absent: bool, held: bool) -> _Phrase:
    things = [word for word in run if not _describes(word)]
    predicate = "told" in separators and words.PASSING.isdisjoint(separators)  # "the ball is orange"
    units = tuple(
        thing
        for thing in things
        if thing not in words.EMPTY
        and not (thing in words.COLOURS_AND_MATERIALS and (predicate or thing != things[-1]))
        and not (thing in words.OF_WHAT and after == "of" and thing == run[-1])
    )
    return _Phrase(
        units,
        joined=tuple(one + other for one, other in pairwise(run)) if units else (),
        vague=any(thing in words.EMPTY for thing in things),
        open=bool(things) and all(thing in words.OPEN for thing in things),
        closes=not {"close", "told", "absent"}.isdisjoint(separators),
        told="told" in separators,
        absent=absent,
        held=held,
    )


def _describes(word: str) -> bool:
    adverb = word.endswith("ly") and len(word) > 4 and word not in words.LY_NOUNS
    return adverb or word in words.DESCRIPTIONS or word in words.NUMBERS or not word[0].isalpha()
