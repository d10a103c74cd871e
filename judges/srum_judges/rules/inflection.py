"""Singular and plural: two words are the same if they share a form."""

from __future__ import annotations

import re
from functools import lru_cache


def _words(text: str) -> list[str]:
    return text.split()


_IRREGULAR = {
    plural: singular
    for singular, plural in (
        pair.split("/")
        for pair in _words(
            """child/children person/people foot/feet tooth/teeth goose/geese louse/lice die/dice ox/oxen axe/axes
            life/lives movie/movies cookie/cookies zombie/zombies brownie/brownies selfie/selfies hoodie/hoodies
            genie/genies pixie/pixies rookie/rookies calorie/calories birdie/birdies cactus/cacti octopus/octopi
            fungus/fungi radius/radii alumnus/alumni hippopotamus/hippopotami analysis/analyses crisis/crises
            thesis/theses oasis/oases phenomenon/phenomena criterion/criteria bacterium/bacteria antenna/antennae
            larva/larvae lens/lenses canvas/canvases gas/gases atlas/atlases bias/biases alias/aliases iris/irises
            quiz/quizzes rhinoceros/rhinoceroses shoe/shoes toe/toes hoe/hoes canoe/canoes oboe/oboes cache/caches
            ache/aches headache/headaches niche/niches quiche/quiches avalanche/avalanches fuse/fuses muse/muses
            moustache/moustaches mustache/mustaches vertex/vertices matrix/matrices index/indices"""
        )
    )
}
_NO_PLURAL = _words(
    """lens gas canvas atlas christmas bias alias pancreas texas chaos cosmos thermos rhinoceros news physics series
    species always perhaps upstairs downstairs yes has was does"""
)
_RULES = (  # the first that fits
    (r"(.*)(?:ss|us|is)", None),
    (r"(.*(?:^|[^u])m)en", r"\1an"),
    (r"(.+child)ren", r"\1"),
    (r"(.*\b(?:dor)?[ml])ice", r"\1ouse"),
    (r"(.*(?:wol|cal|hal|el|scar|hoo|loa|lea|shea|thie|dwar))ves", r"\1f"),
    (r"(.*(?:kni|wi))ves", r"\1fe"),
    (r"(.+[^aeiou])ies", r"\1y"),
    (r"(.*[^oaf]us|.+(?:ss|sh|ch|x|zz|o))es", r"\1"),
    (r"(.+)s", r"\1"),
)


@lru_cache(maxsize=65536)
def forms(term: str) -> frozenset[str]:
    """A word (or several: the last one counts) as written, and its singular if it can be a plural."""
    start, _, word = term.rpartition(" ")
    singular = _singular(word) if re.fullmatch("[a-z]{3,40}", word) else None
    return frozenset([term, f"{start} {singular}".strip()] if singular else [term])


def _singular(word: str) -> str | None:
    if word in _IRREGULAR or word in _NO_PLURAL:
        return _IRREGULAR.get(word)
    for pattern, singular in _RULES:
        if match := re.fullmatch(pattern, word):
            return match.expand(singular) if singular else None
    return None
