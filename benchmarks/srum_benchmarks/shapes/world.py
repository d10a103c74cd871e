"""The world of shapes: its prompts, their wording, and the held-out prompts.

A kind is a (colour, shape). Prompts come in four categories that mirror T2I-CompBench. What is held out is decided by a
hash of its name, so it never depends on a library's random numbers:

* 20 % of the 276 unordered pairs of kinds never stand together in a train prompt; one half of them makes the dev
  prompts, the other the test prompts (attribute binding, spatial relation, three objects);
* 25 % of the 72 (kind, count) never appear in a train prompt: 6 of 24 kinds for each count, 3 for dev and 3 for test.
  That is only 9 each, so numeracy prompts come in twelve wordings (all of them used in every split).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, permutations
from typing import Any

from srum_core.errors import ConfigError
from srum_core.records import Prompt

Kind = tuple[str, str]
"""(colour, shape)"""

SIDE = 32
"""Pixels of an image's side."""
BACKGROUND = (232, 232, 232)
PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 210, 40),
    "purple": (170, 40, 180),
    "cyan": (0, 190, 210),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "cross")
KINDS: tuple[Kind, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {2: "two", 3: "three", 4: "four"}
SPLITS = ("train", "dev", "test")
CATEGORIES = ("attribute binding", "spatial relation", "numeracy", "three objects")

BINDING_WORDINGS = ("{} and {}", "{} together with {}", "a picture of {} and {}", "a drawing of {} and {}")
NUMERACY_WORDINGS = (
    "{}",
    "exactly {}",
    "just {}",
    "only {}",
    "a picture of {}",
    "a picture of exactly {}",
    "a picture with {}",
    "a drawing of {}",
    "a scene with {}",
    "a group of {}",
    "there are {}",
    "here are {}",
)


def digest(*parts: object) -> bytes:
    """A hash that orders and chooses, the same everywhere."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).digest()


def pair(a: Kind, b: Kind) -> frozenset[Kind]:
    return frozenset((a, b))


@cache
def pair_split() -> Mapping[frozenset[Kind], str]:
    """The split of every unordered pair of different kinds."""
    pairs = sorted(combinations(KINDS, 2), key=lambda two: digest("pair", *two))
    held = round(0.2 * len(pairs))
    return {pair(*two): "train" if i >= held else SPLITS[1 + i % 2] for i, two in enumerate(pairs)}


@cache
def count_split() -> Mapping[tuple[Kind, int], str]:
    """The split of every (kind, count). A kind is held out for one count at most."""
    kinds = sorted(KINDS, key=lambda kind: digest("count", *kind))
    split = {(kind, count): "train" for kind in KINDS for count in COUNTS}
    share = len(KINDS) // 4
    for turn, count in enumerate(COUNTS):
        for i, kind in enumerate(kinds[turn * share : (turn + 1) * share]):
            split[kind, count] = SPLITS[1 + i % 2]
    return split


def set_split(kinds: Sequence[Kind]) -> str | None:
    """The split of several different kinds; None where dev pairs and test pairs meet: those are not used."""
    held = {pair_split()[pair(a, b)] for a, b in combinations(kinds, 2)} - {"train"}
    if len(held) > 1:
        return None
    return held.pop() if held else "train"


def a(kind: Kind) -> str:
    return f"a {kind[0]} {kind[1]}"


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def tags(category: str, kinds: Sequence[Kind], relation: str | None = None, count: int | None = None) -> dict[str, Any]:
    """JSON-like description of the prompt; `objects` holds [colour, shape] lists (one, for numeracy)."""
    return {"category": category, "objects": [list(kind) for kind in kinds], "relation": relation, "count": count}


def crowded(tags: Mapping[str, Any]) -> bool:
    """Whether a prompt with these tags is of the crowded world (`crowded.py`)."""
    return "places" in tags


def wanted(tags: Mapping[str, Any]) -> Counter[Kind]:
    """How many objects of each kind the prompt with these tags asks for."""
    kinds = [(colour, shape) for colour, shape in tags["objects"]]
    return Counter(kinds * (tags["count"] or 1))


def binding(first: Kind, second: Kind, wording: str = BINDING_WORDINGS[0]) -> Prompt:
    return Prompt("", wording.format(a(first), a(second)), tags(CATEGORIES[0], (first, second)))


def spatial(first: Kind, second: Kind, relation: str) -> Prompt:
    return Prompt("", f"{a(first)} {relation} {a(second)}", tags(CATEGORIES[1], (first, second), relation))


def numeracy(kind: Kind, count: int, wording: str = NUMERACY_WORDINGS[0]) -> Prompt:
    text = wording.format(f"{COUNTS[count]} {kind[0]} {plural(kind[1])}")
    return Prompt("", text, tags(CATEGORIES[2], (kind,), count=count))


def three(first: Kind, second: Kind, third: Kind) -> Prompt:
    return Prompt("", f"{a(first)}, {a(second)} and {a(third)}", tags(CATEGORIES[3], (first, second, third)))


@cache
def ordered_pairs(split: str) -> tuple[tuple[Kind, Kind], ...]:
    return tuple(two for two in permutations(KINDS, 2) if pair_split()[pair(*two)] == split)


@cache
def combos(split: str) -> tuple[tuple[Kind, int], ...]:
    return tuple(combo for combo, of in count_split().items() if of == split)


def _every(split: str, category: str) -> Iterator[Prompt]:
    ordered = ordered_pairs(split)
    if category == CATEGORIES[0]:
        yield from (binding(*two, wording) for two in ordered for wording in BINDING_WORDINGS)
    elif category == CATEGORIES[1]:
        yield from (spatial(*two, relation) for two in ordered for relation in RELATIONS)
    elif category == CATEGORIES[2]:
        yield from (numeracy(*combo, wording) for combo in combos(split) for wording in NUMERACY_WORDINGS)
    else:
        yield from (three(*kinds) for kinds in permutations(KINDS, 3) if set_split(kinds) == split)


def known(split: str) -> None:
    """Raises ConfigError for a split that there is not."""
    if split not in SPLITS:
        raise ConfigError(f"The shapes world has no split {split!r}; it has {', '.join(SPLITS)}.")


@cache
def every_prompt(split: str, category: str, seed: int = 0) -> tuple[Prompt, ...]:
    """All distinct prompts of one category, in an order that `seed` shuffles."""
    return tuple(sorted(_every(split, category), key=lambda prompt: digest("order", seed, prompt.text)))


def those(category: str, categories: Sequence[str]) -> list[str]:
    """This category, or all of a world's. Raises ConfigError for one that the world does not have."""
    if category and category not in categories:
        raise ConfigError(f"There is no category {category!r} of prompts; there is {', '.join(categories)}.")
    return [category] if category else list(categories)


def prefix(world: str, split: str, seed: int, category: str) -> str:
    """Prefix of the ids of such prompts."""
    parts = [world, category.replace(" ", "-"), split, f"s{seed}" if seed else ""]
    return "-".join(filter(None, parts)) + "-"


def prompts(split: str, count: int | None = None, seed: int = 0, category: str = "") -> list[Prompt]:
    """The first `count` prompts, categories taking turns; None = as many as every category can give equally.

    Deterministic, all different, ids like "shapes-test-0007", or of one category like "shapes-numeracy-test-0007".
    Where `count` asks for more than a category holds, the others fill up; more than there are at all is an error.
    """
    known(split)
    lists = [every_prompt(split, each, seed) for each in those(category, CATEGORIES)]
    if count is None:
        count = len(lists) * min(map(len, lists))
    if not 0 <= count <= sum(map(len, lists)):
        raise ConfigError(f"The shapes split {split!r} has {sum(map(len, lists))} prompts, not {count}.")
    turns = (of[i] for i in range(max(map(len, lists))) for of in lists if i < len(of))
    name = prefix("shapes", split, seed, category)
    return [Prompt(f"{name}{i:04d}", p.text, p.tags) for i, p in zip(range(count), turns, strict=False)]
