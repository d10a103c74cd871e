"""Scenes of shapes: where things stand, and the image of them. Edges are crisp: an image can be read exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from srum_benchmarks.shapes.crowded import GRID, SLOT, stands
from srum_benchmarks.shapes.world import BACKGROUND, PALETTE, SIDE, Kind, crowded, wanted

Pixels = NDArray[np.uint8]
"""(32, 32, 3) RGB"""
Mask = NDArray[np.bool_]

SIZES = (9, 10, 11)
"""Pixels of an object's bounding side."""
SMALL: Mapping[str, tuple[int, ...]] = {"circle": (7,), "square": (6, 7), "triangle": (6, 7), "cross": (6,)}
"""The same in the crowded world, by shape: a circle of 6 pixels is nearly a square, a cross of 7 nearly a circle."""
GAP = 2
"""Fewest background pixels between two objects."""
LEAN = 3
"""Composed scenes put related objects' centres this many pixels further apart along the relation's axis than across it
(and, since objects keep their distance, at least 11 along it)."""


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


@cache
def shape_mask(shape: str, size: int) -> Mask:
    """(size, size), True inside the shape."""
    row, column = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    across, down = np.abs(column - middle), np.abs(row - middle)
    # Half of a cross's arm: 4 pixels wide in an even size from 8 on, 2 below, 3 in an odd one.
    arm = min(2, size // 4) if size % 2 == 0 else 1.5
    masks: dict[str, Mask] = {
        "circle": across**2 + down**2 <= (size / 2) ** 2,
        "square": np.ones((size, size), bool),
        "triangle": across <= (row + 1 - size % 2) / 2,
        "cross": (across < arm) | (down < arm),
    }
    return masks[shape]


def draw(scene: Sequence[Object]) -> Pixels:
    """The image of a scene, (32, 32, 3) uint8; later objects lie on top."""
    image = np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)
    for thing in scene:
        part = image[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]
        part[shape_mask(thing.shape, thing.size)] = PALETTE[thing.colour]
    return image


def related(first: Any, second: Any, relation: str, least: float, lean: float) -> Any:
    """Whether centre `first` (x, y) is in `relation` to `second`: `least` along it, and `lean` more than across. Either
    may hold arrays."""
    right, down = second[0] - first[0], second[1] - first[1]
    along = {"left of": right, "right of": -right, "above": down, "below": -down}[relation]
    across = abs(down if relation in ("left of", "right of") else right)
    return (along >= least) & (along >= across + lean)


def _free(placed: Sequence[Object], size: int) -> Mask:
    """(rows, columns) of top left corners where an object of this size keeps its distance from all others."""
    room = np.ones((SIDE - size + 1, SIDE - size + 1), bool)
    for thing in placed:
        reach = size + GAP - 1
        room[
            max(0, thing.y - reach) : thing.y + thing.size + GAP, max(0, thing.x - reach) : thing.x + thing.size + GAP
        ] = False
    return room


def place(kinds: Sequence[Kind], rng: np.random.Generator, relation: str | None = None) -> Scene:
    """Objects of these kinds at random places and sizes, apart; the first in `relation` to the second."""
    while True:  # a first object in the middle can leave no space for a fourth: start again
        placed: list[Object] = []
        for kind in kinds:
            size = SIZES[rng.integers(len(SIZES))]
            room = _free(placed, size)
            if relation is not None and placed:
                y, x = np.mgrid[: room.shape[0], : room.shape[1]] + size / 2
                room &= related(placed[0].centre, (x, y), relation, 0, LEAN)
            places = np.flatnonzero(room)
            if not len(places):
                break
            y, x = divmod(int(places[rng.integers(len(places))]), room.shape[1])
            placed.append(Object(*kind, x, y, size))
        else:
            return tuple(placed)


def in_cell(kind: Kind, cell: int, rng: np.random.Generator) -> Object:
    """A small thing in a cell (0 to 15, row by row) of the crowded world. One of 6 pixels is moved by a pixel or not:
    at least one pixel of background stays between any two."""
    sizes = SMALL[kind[1]]
    size = sizes[rng.integers(len(sizes))]
    x, y = rng.integers(SLOT - size, size=2).tolist()
    return Object(*kind, cell % GRID * SLOT + x, cell // GRID * SLOT + y, size)


def cell(thing: Object) -> int:
    """The cell of the crowded world that a thing is in."""
    return thing.y // SLOT * GRID + thing.x // SLOT


def free_cell(scene: Sequence[Object], rng: np.random.Generator) -> int:
    """A random cell without a thing."""
    free = sorted(set(range(GRID * GRID)) - {cell(thing) for thing in scene})
    return free[rng.integers(len(free))]


def _in_cells(kinds: Sequence[Kind], places: Sequence[str | None], rng: np.random.Generator) -> Scene:
    """Each of these kinds in a separate cell, in its place."""
    while True:  # an earlier object can take a place that a later one needs
        cells: list[int] = []
        for where in places:
            fits = [i for i in range(GRID * GRID) if i not in cells and stands(where, (i // GRID + 1, i % GRID + 1))]
            if not fits:
                break
            cells.append(fits[rng.integers(len(fits))])
        else:
            return tuple(in_cell(kind, i, rng) for kind, i in zip(kinds, cells, strict=True))


def compose(tags: Mapping[str, Any], rng: np.random.Generator) -> Scene:
    """A random scene that exactly matches the prompt with these tags."""
    if crowded(tags):
        return _in_cells([(colour, shape) for colour, shape in tags["objects"]], tags["places"], rng)
    return place([kind for kind, count in wanted(tags).items() for _ in range(count)], rng, tags["relation"])
