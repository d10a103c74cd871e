"""Scenes of shapes to train on: random prompts, places of objects, and their images.

Edges are sharp, so that the checker reads an image exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from attrs import frozen

from srum_benchmarks.shapes import crowded, world
from srum_benchmarks.shapes.checker import SIZES, SMALL, Mask, Pixels, related, shape_mask
from srum_benchmarks.shapes.crowded import GRID, SLOT, stands
from srum_benchmarks.shapes.world import (
    BACKGROUND,
    BINDING_WORDINGS,
    CATEGORIES,
    COLOURS,
    KINDS,
    NUMERACY_WORDINGS,
    PALETTE,
    RELATIONS,
    SIDE,
    Kind,
    binding,
    combos,
    digest,
    numeracy,
    ordered_pairs,
    set_split,
    spatial,
    three,
    wanted,
)
from srum_benchmarks.shapes.world import crowded as is_crowded
from srum_core.records import Prompt

WORLDS: Mapping[str, Any] = {"shapes": world, "crowded": crowded}
GAP = 2
"""Fewest background pixels between two objects."""
LEAN = 3
"""Pixels by which related objects' centres are further apart along the relation's axis than across it; since objects do
not touch, they are at least 11 apart along it."""
HARD = 12
"""Number of kinds, of 24, that images for training generation mostly miss."""


@frozen
class Object:
    """A shape whose bounding square has its top left pixel at (x, y)."""

    colour: str
    shape: str
    x: int
    y: int
    size: int

    @property
    def kind(self) -> Kind:
        return self.colour, self.shape

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.size / 2, self.y + self.size / 2


Scene = tuple[Object, ...]


def draw(scene: Sequence[Object]) -> Pixels:
    """Render a scene, (32, 32, 3) uint8; later objects are on top."""
    image = np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)
    for thing in scene:
        part = image[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]
        part[shape_mask(thing.shape, thing.size)] = PALETTE[thing.colour]
    return image


def _free(objects: Sequence[Object], size: int) -> Mask:
    """Return a mask (rows, columns) of top left corners at which an object of this size has enough distance from
    others."""
    room = np.ones((SIDE - size + 1, SIDE - size + 1), bool)
    for thing in objects:
        reach = size + GAP - 1
        room[
            max(0, thing.y - reach) : thing.y + thing.size + GAP, max(0, thing.x - reach) : thing.x + thing.size + GAP
        ] = False
    return room


def place(kinds: Sequence[Kind], rng: np.random.Generator, relation: str | None = None) -> Scene:
    """Place objects of these kinds at random, in random sizes, apart; the first in `relation` to the second."""
    while True:  # start again if there is no space for an object
        objects: list[Object] = []
        for kind in kinds:
            size = SIZES[rng.integers(len(SIZES))]
            room = _free(objects, size)
            if relation is not None and objects:
                y, x = np.mgrid[: room.shape[0], : room.shape[1]] + size / 2
                room &= related(objects[0].centre, (x, y), relation, 0, LEAN)
            places = np.flatnonzero(room)
            if not len(places):
                break
            y, x = divmod(int(places[rng.integers(len(places))]), room.shape[1])
            objects.append(Object(*kind, x, y, size))
        else:
            return tuple(objects)


def in_cell(kind: Kind, cell: int, rng: np.random.Generator) -> Object:
    """Place a small thing in a cell (0 to 15, row by row) of the crowded world, with at least one pixel of background
    between any two."""
    sizes = SMALL[kind[1]]
    size = sizes[rng.integers(len(sizes))]
    x, y = rng.integers(SLOT - size, size=2).tolist()
    return Object(*kind, cell % GRID * SLOT + x, cell // GRID * SLOT + y, size)


def cell(thing: Object) -> int:
    """Return the cell of the crowded world that holds a thing."""
    return thing.y // SLOT * GRID + thing.x // SLOT


def free_cell(scene: Sequence[Object], rng: np.random.Generator) -> int:
    """Return a random empty cell."""
    free = sorted(set(range(GRID * GRID)) - {cell(thing) for thing in scene})
    return free[rng.integers(len(free))]


def _in_cells(kinds: Sequence[Kind], places: Sequence[str | None], rng: np.random.Generator) -> Scene:
    """Place each kind in a separate cell of its place."""
    while True:  # start again if there is no cell for an object
        cells: list[int] = []
        for where in places:
            fits = [i for i in range(GRID * GRID) if i not in cells and stands(where, (i // GRID + 1, i % GRID + 1))]
            if not fits:
                break
            cells.append(fits[rng.integers(len(fits))])
        else:
            return tuple(in_cell(kind, i, rng) for kind, i in zip(kinds, cells, strict=True))


def compose(tags: Mapping[str, Any], rng: np.random.Generator) -> Scene:
    """Return a random scene that fulfils the prompt with these tags."""
    if is_crowded(tags):
        return _in_cells([(colour, shape) for colour, shape in tags["objects"]], tags["places"], rng)
    return place([kind for kind, count in wanted(tags).items() for _ in range(count)], rng, tags["relation"])


# ---- prompts --------------------------------------------------------------------------------------------------------


def random_prompt(
    rng: np.random.Generator, split: str = "train", category: str | None = None, world: str = "shapes"
) -> Prompt:
    """Return a random prompt of a split; without a `category`, of a random one. Its id is empty: it is in no list."""
    categories = WORLDS[world].CATEGORIES
    category = category or categories[rng.integers(len(categories))]
    if world == "crowded":
        return _random_list(rng, split, category)
    if category == CATEGORIES[2]:
        pairs = combos(split)
        kind, count = pairs[rng.integers(len(pairs))]
        return numeracy(kind, count, NUMERACY_WORDINGS[rng.integers(len(NUMERACY_WORDINGS))])
    first, second = ordered_pairs(split)[rng.integers(len(ordered_pairs(split)))]
    if category == CATEGORIES[0]:
        return binding(first, second, BINDING_WORDINGS[rng.integers(len(BINDING_WORDINGS))])
    if category == CATEGORIES[1]:
        return spatial(first, second, RELATIONS[rng.integers(len(RELATIONS))])
    while True:
        kinds = [first, second, KINDS[rng.integers(len(KINDS))]]
        if len(set(kinds)) == 3 and set_split(kinds) == split:
            return three(*(kinds[i] for i in rng.permutation(3)))


def _random_list(rng: np.random.Generator, split: str, category: str) -> Prompt:
    count, kinds = crowded.COUNTS[rng.integers(len(crowded.COUNTS))], None
    while kinds is None:
        kinds = crowded.together([KINDS[i] for i in rng.permutation(len(KINDS)).tolist()], count, split)
    if category != crowded.CATEGORIES[1]:
        return crowded.listed(kinds)
    cells, by_row = rng.permutation(GRID * GRID)[:count].tolist(), (rng.random(count) < 0.5).tolist()
    return crowded.listed(kinds, crowded.in_places(cells, by_row))


@cache
def hard_kinds() -> Mapping[Kind, Kind]:
    """Return the hard kinds, each with the kind that replaces it: the same shape in one fixed other colour."""
    hard = sorted(KINDS, key=lambda kind: digest("hard", *kind))[:HARD]
    return {(colour, shape): (_mistaken(colour, shape), shape) for colour, shape in hard}


def _mistaken(colour: str, shape: str) -> str:
    return min((other for other in COLOURS if other != colour), key=lambda other: digest("as", colour, shape, other))
