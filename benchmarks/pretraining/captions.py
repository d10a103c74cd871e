"""Captions for an image: one that it fulfils, one that it just misses; and images that miss their caption.

All captions are of the train split: none has a held-out pair of objects or a held-out count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve

from pretraining.corruptions import corrupt, pick
from pretraining.scenes import Object, Scene, cell, draw, free_cell, hard_kinds, in_cell
from srum_benchmarks.shapes.checker import APART, Pixels, Thing, related
from srum_benchmarks.shapes.crowded import COUNTS as CROWD
from srum_benchmarks.shapes.crowded import PLACES, cell_of, listed
from srum_benchmarks.shapes.world import (
    BINDING_WORDINGS,
    CATEGORIES,
    COLOURS,
    COUNTS,
    KINDS,
    NUMERACY_WORDINGS,
    RELATIONS,
    SHAPES,
    Kind,
    binding,
    count_split,
    crowded,
    numeracy,
    set_split,
    spatial,
    three,
)
from srum_core.records import Prompt

BINDING, SPATIAL, NUMERACY, THREE = CATEGORIES
MISSES: Mapping[str, tuple[tuple[str, float], ...]] = {
    BINDING: (("extra", 0.6), ("wrong colour", 0.2), ("wrong shape", 0.2)),
    SPATIAL: (("wrong relation", 0.8), ("extra", 0.2)),
    NUMERACY: (("extra", 1.0),),
    THREE: (("extra", 0.5), ("wrong colour", 0.25), ("wrong shape", 0.25)),
}
"""How images of the generation data deviate from their caption, by category: mostly by an object that it omits."""
FEWER = {THREE: 0.5}
"""Factor of the share of misses: models often fail with three objects anyway."""

HARD_WRONG, HARD_LEFT_OUT = 0.65, 0.3
"""In the crowded world: share of the hard kinds (`scenes.hard_kinds`) that an image misses, and of these the share that
it omits; the others have one fixed other colour."""
EASY_WRONG, EASY_LEFT_OUT = 0.1, 0.5
"""The same for the other kinds; those that are not omitted have any other colour or shape."""
EXTRA = 0.1
"""Share of such images with one more thing of any kind."""


def image_for(prompt: Prompt, scene: Scene, share: float, rng: np.random.Generator) -> Pixels:
    """Return the image for a caption. A `share` of images deviates from the caption in one thing; in the crowded world,
    this share deviates object by object (`mistaken`)."""
    if crowded(prompt.tags):
        return draw(mistaken(scene, rng) if rng.random() < share else scene)
    category = prompt.tags["category"]
    if rng.random() >= share * FEWER.get(category, 1.0):
        return draw(scene)
    names, shares = zip(*MISSES[category], strict=True)
    return corrupt(str(rng.choice(names, p=shares)), scene, prompt.tags, rng)


def mistaken(scene: Scene, rng: np.random.Generator) -> Scene:
    """Change a crowded scene: hard kinds are mostly omitted or in their other colour, other kinds seldom omitted or in
    any other colour or shape; sometimes there is one more thing."""
    things = []
    for thing in scene:
        hard = hard_kinds().get(thing.kind)
        if rng.random() >= (EASY_WRONG if hard is None else HARD_WRONG):
            things.append(thing)
        elif hard is not None and rng.random() >= HARD_LEFT_OUT:
            things.append(evolve(thing, colour=hard[0]))
        elif hard is None and rng.random() >= EASY_LEFT_OUT:
            things.append(_other_kind(thing, rng))
    if rng.random() < EXTRA:
        things.append(in_cell(pick(KINDS, rng), free_cell(scene, rng), rng))
    return tuple(things)


def _other_kind(thing: Object, rng: np.random.Generator) -> Object:
    """Give the thing another colour or shape."""
    colour, shape = thing.kind
    if rng.random() < 0.5:
        return evolve(thing, colour=pick([other for other in COLOURS if other != colour], rng))
    return in_cell((colour, pick([other for other in SHAPES if other != shape], rng)), cell(thing), rng)


def fulfilled(things: Sequence[Thing], rng: np.random.Generator, crowd: bool = False) -> Prompt | None:
    """Return a train prompt that an image with these things fulfils, or None. `crowd`: of the crowded world."""
    kinds = [thing.kind for thing in things]
    if any(kind is None for kind in kinds):
        return None
    order = rng.permutation(len(things)).tolist()
    mixed: list[Kind] = [kind for i in order if (kind := kinds[i]) is not None]
    if crowd:
        if len(mixed) not in CROWD:
            return None
        places = [_place(things[i], rng) for i in order] if rng.random() < 0.5 else None
        return _trained(listed(mixed, places))
    if len(set(mixed)) == 1 and len(mixed) in COUNTS:
        return _trained(numeracy(mixed[0], len(mixed), pick(NUMERACY_WORDINGS, rng)))
    if len(set(mixed)) < len(mixed):
        return None
    if len(mixed) == 3:
        return _trained(three(*mixed))
    if len(mixed) != 2:
        return None
    one, other = (things[i].centre for i in order)
    relations = [name for name in RELATIONS if related(one, other, name, APART, 0)]
    if relations and rng.random() < 0.6:
        return _trained(spatial(mixed[0], mixed[1], pick(relations, rng)))
    return _trained(binding(mixed[0], mixed[1], pick(BINDING_WORDINGS, rng)))


def _place(thing: Thing, rng: np.random.Generator) -> str:
    row, column = cell_of(thing.centre)
    return f"row {row}" if rng.random() < 0.5 else f"column {column}"


def near_miss(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Return a train prompt that differs in one colour, shape, relation, count, place or object, or in two swapped
    colours or places."""
    while True:
        new = _trained(_change(prompt, rng))
        if new is not None and _meaning(new) != _meaning(prompt):
            return new


def _meaning(prompt: Prompt) -> tuple[object, ...]:
    """Return a value that is equal for prompts which the same images fulfil; only a relation orders objects."""
    tags = prompt.tags
    kinds = [tuple(kind) for kind in tags["objects"]]
    if crowded(tags):
        return tuple(sorted(zip(kinds, tags["places"], strict=True), key=str))
    if tags["relation"] in RELATIONS[1::2]:  # a right of b = b left of a
        mirrored = RELATIONS[RELATIONS.index(tags["relation"]) ^ 1]
        return tuple(reversed(kinds)), mirrored, tags["count"]
    return tuple(kinds if tags["relation"] else sorted(kinds)), tags["relation"], tags["count"]


def _change(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    tags = prompt.tags
    kinds: list[Kind] = [(colour, shape) for colour, shape in tags["objects"]]
    if crowded(tags):
        return _change_list(kinds, list(tags["places"]), rng)
    category, fate = tags["category"], rng.random()
    if category == SPATIAL and fate < 0.6:
        # Left and right, above and below stand next to each other.
        mirrored = RELATIONS[RELATIONS.index(tags["relation"]) ^ 1]
        other_relations = [relation for relation in RELATIONS if relation != tags["relation"]]
        return spatial(kinds[0], kinds[1], mirrored if fate < 0.35 else pick(other_relations, rng))
    if category == NUMERACY and fate < 0.7:
        return numeracy(kinds[0], pick([c for c in COUNTS if c != tags["count"]], rng), pick(NUMERACY_WORDINGS, rng))
    if category == BINDING and fate < 0.2:
        return three(kinds[0], kinds[1], pick(KINDS, rng))
    if category == THREE and fate < 0.3:
        one, other = (kinds[i] for i in rng.permutation(3)[:2].tolist())
        return binding(one, other, pick(BINDING_WORDINGS, rng))
    if len(kinds) > 1 and fate > 0.85:  # colours swapped
        (first_colour, first), (second_colour, second) = kinds[:2]
        kinds[:2] = [(second_colour, first), (first_colour, second)]
    else:
        i = int(rng.integers(len(kinds)))
        colour, shape = kinds[i]
        kinds[i] = (pick(COLOURS, rng), shape) if rng.random() < 0.5 else (colour, pick(SHAPES, rng))
    if category == NUMERACY:
        return numeracy(kinds[0], tags["count"], pick(NUMERACY_WORDINGS, rng))
    if category == THREE:
        return three(*kinds)
    if category == SPATIAL:
        return spatial(kinds[0], kinds[1], tags["relation"])
    return binding(kinds[0], kinds[1], pick(BINDING_WORDINGS, rng))


def _change_list(kinds: list[Kind], places: list[str | None], rng: np.random.Generator) -> Prompt:
    """Change, remove or add one kind of a list, or swap two colours or places; sometimes reorder it."""
    with_places, fate = any(places), rng.random()
    i, j = rng.permutation(len(kinds))[:2].tolist()
    if fate < 0.15:
        del kinds[i], places[i]
    elif fate < 0.3:
        kinds.append(pick(KINDS, rng))
        places.append(pick(PLACES, rng) if with_places else None)
    elif fate < 0.5 and with_places:
        places[i] = pick(PLACES, rng)
    elif fate < 0.6 and with_places:
        places[i], places[j] = places[j], places[i]
    elif fate < 0.7:
        (one, shape), (other, second) = kinds[i], kinds[j]
        kinds[i], kinds[j] = (other, shape), (one, second)
    elif rng.random() < 0.6:
        kinds[i] = (pick(COLOURS, rng), kinds[i][1])
    else:
        kinds[i] = (kinds[i][0], pick(SHAPES, rng))
    order = rng.permutation(len(kinds)).tolist() if rng.random() < 0.5 else range(len(kinds))
    return listed([kinds[k] for k in order], [places[k] for k in order])


def _trained(prompt: Prompt) -> Prompt | None:
    """Return the prompt if it is of the train split, else None."""
    kinds: list[Kind] = [(colour, shape) for colour, shape in prompt.tags["objects"]]
    if len(kinds) not in CROWD and crowded(prompt.tags):
        return None
    if prompt.tags["count"]:
        split: str | None = count_split()[kinds[0], prompt.tags["count"]]
    elif len(set(kinds)) < len(kinds):
        split = None
    else:
        split = set_split(kinds)
    return prompt if split == "train" else None
