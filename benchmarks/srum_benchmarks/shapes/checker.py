"""Reads an image of the world of shapes exactly, without any model, and decides whether it matches its prompt.

Pixel → palette colour or background → connected components of one colour → shape by overlap with the shape masks.

A pixel of an object's soft edge is a mixture of the object's colour and the background. So a pixel is compared with the
whole line from the background to each colour, and belongs to the nearest line; it is foreground from half way on. A
plain nearest-colour rule would read the rim of one object as another colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from srum_benchmarks.shapes.crowded import cell_of, stands
from srum_benchmarks.shapes.world import BACKGROUND, COLOURS, PALETTE, SHAPES, SIDE, Kind, crowded, wanted
from srum_core.errors import RecordError
from srum_core.models.images import open_image
from srum_core.records import Candidate

Pixels = NDArray[np.uint8]
"""(32, 32, 3) RGB"""
Mask = NDArray[np.bool_]
PixelBox = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels; x1 and y1 are one past the last."""

SIZES = (9, 10, 11)
"""Pixels of an object's bounding side."""
SMALL: Mapping[str, tuple[int, ...]] = {"circle": (7,), "square": (6, 7), "triangle": (6, 7), "cross": (6,)}
"""The same in the crowded world, by shape: a circle of 6 pixels is nearly a square, a cross of 7 nearly a circle."""
SMALLEST = 8
"""Pixels; fewer are a speck, which is neither an object nor a mistake (the smallest shape has 41, a small one 20)."""
OVERLAP = 0.8
"""Least intersection over union with a shape's mask (a circle and its own bounding square have about 0.79)."""
FIRM = 0.75
"""Least mean strength of a shape's pixels: a blurred or faint one is no shape, even where its outline fits."""
APART = 4
"""Least distance of centres, in pixels, along the axis of a relation."""
WINDOW = 18
"""Side of the window in which a component is compared with masks."""


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


def related(first: Any, second: Any, relation: str, least: float, lean: float) -> Any:
    """Whether centre `first` (x, y) is in `relation` to `second`: `least` along it, and `lean` more than across. Either
    may hold arrays."""
    right, down = second[0] - first[0], second[1] - first[1]
    along = {"left of": right, "right of": -right, "above": down, "below": -down}[relation]
    across = abs(down if relation in ("left of", "right of") else right)
    return (along >= least) & (along >= across + lean)


@frozen
class Thing:
    """A connected component of one colour. `shape` is None where no shape fits: a blob."""

    colour: str
    shape: str | None
    box: PixelBox
    area: int
    overlap: float

    @property
    def kind(self) -> Kind | None:
        return None if self.shape is None else (self.colour, self.shape)

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@frozen
class Verdict:
    correct: bool
    fidelity: float
    """Share of the required objects that are there, wherever they stand and whatever else is there."""
    detail: str
    """The fault in a few words, or "all as asked"."""
    things: tuple[Thing, ...]


def colours(image: Pixels) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each pixel (rows, columns): the index into COLOURS, -1 for background; and the colour's strength, 0 to 1."""
    towards = np.array([PALETTE[name] for name in COLOURS], float) - BACKGROUND
    seen = image.astype(float) - BACKGROUND
    dot, length = seen @ towards.T, (towards**2).sum(1)
    along = np.clip(dot / length, 0, 1)  # 0 = background, 1 = the colour itself
    off = along * (along * length - 2 * dot)  # the squared distance to each line, less the pixel's own square
    best = off.argmin(-1)
    strength = np.take_along_axis(along, best[..., None], -1)[..., 0]
    return np.where(strength >= 0.5, best, -1), strength


def components(labels: NDArray[np.int64]) -> list[Mask]:
    """4-connected areas of one label, -1 left out: masks of the image's size, in the order of their first pixels."""
    first = np.arange(labels.size).reshape(labels.shape)  # of each pixel's area, as far as it is known
    inside = labels >= 0
    down = (labels[1:] == labels[:-1]) & inside[1:]
    right = (labels[:, 1:] == labels[:, :-1]) & inside[:, 1:]
    while True:
        before = first.copy()
        for here, there, same in ((first[1:], first[:-1], down), (first[:, 1:], first[:, :-1], right)):
            np.minimum(here, there, out=here, where=same)
            np.minimum(here, there, out=there, where=same)
        first = first.ravel()[first]
        if np.array_equal(first, before):
            return [first == pixel for pixel in np.unique(first[inside])]


def _box(area: Mask) -> PixelBox:
    y, x = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


@cache
def _templates(small: bool) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Names, flattened masks and areas of every shape, shifted by up to two pixels: one pixel around the sizes, and
    of the `small` ones of the crowded world just these, among which a pixel makes another shape."""
    names, masks = [], []
    for shape in SHAPES:
        for size in SMALL[shape] if small else range(SIZES[0] - 1, SIZES[-1] + 2):
            for y in range(5):
                for x in range(5):
                    window = np.zeros((WINDOW, WINDOW))
                    window[y : y + size, x : x + size] = shape_mask(shape, size)
                    names.append(shape)
                    masks.append(window.ravel())
    return tuple(names), np.array(masks), np.array(masks).sum(1)


def recognise(area: Mask, small: bool = False) -> tuple[str | None, float]:
    """The shape that overlaps an area best, None under OVERLAP; and that intersection over union."""
    x0, y0, x1, y1 = _box(area)
    if max(x1 - x0, y1 - y0) > WINDOW - 2:
        return None, 0.0
    window = np.zeros((WINDOW, WINDOW))
    window[2 : 2 + y1 - y0, 2 : 2 + x1 - x0] = area[y0:y1, x0:x1]
    names, masks, sizes = _templates(small)
    both = masks @ window.ravel()
    overlap = both / (sizes + window.sum() - both)
    best = int(overlap.argmax())
    return (names[best] if overlap[best] >= OVERLAP else None), float(overlap[best])


def look(image: Pixels, small: bool = False) -> tuple[Thing, ...]:
    """Every component that is no speck, in reading order. `small`: an image of the crowded world."""
    labels, strength = colours(image)
    things = []
    for area in components(labels):
        if area.sum() < SMALLEST:
            continue
        shape, overlap = recognise(area, small)
        if strength[area].mean() < FIRM:
            shape = None
        box = _box(area)
        colour = COLOURS[int(labels[area][0])]
        things.append(Thing(colour, shape, box, int(area.sum()), overlap))
    return reading_order(things)


def reading_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """Row by row from the top, each from the left. A thing belongs to a row whose first (highest) thing reaches below
    its middle: the order in which a grounder numbers regions."""
    rows: list[list[Thing]] = []
    for thing in sorted(things, key=lambda thing: (thing.box[1], thing.box[0])):
        if rows and thing.centre[1] < rows[-1][0].box[3]:
            rows[-1].append(thing)
        else:
            rows.append([thing])
    return tuple(thing for row in rows for thing in sorted(row, key=lambda thing: thing.box))


def placed(thing: Thing, place: str | None) -> bool:
    """Whether a thing of the crowded world is in this row or column; None is everywhere."""
    return stands(place, cell_of(thing.centre))


def absent(things: tuple[Thing, ...], tags: Mapping[str, Any]) -> list[Kind]:
    """The required objects, in their order, that are missing from the image, or from their place."""
    there, missing = list(things), list[Kind]()
    asked = [kind for kind, count in wanted(tags).items() for _ in range(count)]
    for kind, place in zip(asked, tags.get("places") or [None] * len(asked), strict=True):
        match = next((thing for thing in there if thing.kind == kind and placed(thing, place)), None)
        if match is None:
            missing.append(kind)
        else:
            there.remove(match)
    return missing


def holds(things: tuple[Thing, ...], tags: Mapping[str, Any]) -> bool:
    """Whether the required relation holds between the first objects of the two kinds, and each object is in its place.
    True where neither is asked."""
    if crowded(tags):
        return not absent(things, tags)
    if tags["relation"] is None:
        return True
    first, second = (next((f for f in things if f.kind == tuple(kind)), None) for kind in tags["objects"])
    return bool(first and second and related(first.centre, second.centre, tags["relation"], APART, 0))


def layout(things: tuple[Thing, ...], tags: Mapping[str, Any]) -> float:
    """How well colours, counts and places are as asked, 0 to 1, whatever form the things have (also blobs).

    The F1 of required and present objects, paired by colour; where a relation is required, the mean of that and of
    whether any two things of the two colours stand so; where places are, of that and of the share of them in which
    something of the colour stands."""
    need = Counter(colour for colour, _ in wanted(tags).elements())
    there = Counter(thing.colour for thing in things)
    matched = 2 * (need & there).total() / (need.total() + there.total())
    if crowded(tags) and any(tags["places"]):
        asked = list(zip([colour for colour, _ in tags["objects"]], tags["places"], strict=True))
        there_too = [
            any(thing.colour == colour and placed(thing, place) for thing in things) for colour, place in asked
        ]
        return (matched + sum(there_too) / len(asked)) / 2
    if tags["relation"] is None:
        return matched
    one, other = (colour for colour, _ in tags["objects"])
    pairs = [(a, b) for a in things for b in things if a is not b and (a.colour, b.colour) == (one, other)]
    stands = any(related(a.centre, b.centre, tags["relation"], APART, 0) for a, b in pairs)
    return (matched + stands) / 2


def check(image: Pixels, tags: Mapping[str, Any]) -> Verdict:
    """Right iff every required object is there, nothing else is, and relation, count and places are as asked."""
    things = look(image, crowded(tags))
    need = wanted(tags)
    left = need.copy()
    surplus = []
    for thing in things:
        if thing.kind is not None and left[thing.kind] > 0:
            left[thing.kind] -= 1
        else:
            surplus.append(thing)
    fidelity = 1 - left.total() / need.total()
    wrong = []
    if surplus:
        thing = surplus[0]
        how = "one too many" if thing.kind and need[thing.kind] else "not asked for"
        wrong.append(f"{how}: {thing.colour} {thing.shape or 'blob'}")
    if left.total():
        colour, shape = next(kind for kind, count in left.items() if count > 0)
        wrong.append(f"missing: {colour} {shape}")
    if not wrong and not holds(things, tags):
        misplaced = f"not in its place: {' '.join(absent(things, tags)[0])}" if crowded(tags) else ""
        wrong.append(misplaced or f"not {tags['relation']}")
    detail = "; ".join(wrong) or "all as asked"
    return Verdict(detail == "all as asked", fidelity, detail, things)


def read(candidate: Candidate, who: str) -> Pixels:
    """A candidate's image, (32, 32, 3) RGB; `who` wants to check it.

    Raises RecordError for prompts of another world and other sizes."""
    if not {"category", "objects", "relation", "count"} <= candidate.prompt.tags.keys():
        raise RecordError(
            f'{who} cannot check image {candidate.id}: its prompt "{candidate.prompt.text}" does not say which '
            "objects it asks for. Use prompts of the shapes world."
        )
    image = np.asarray(open_image(candidate.image).convert("RGB"))
    if image.shape != (SIDE, SIDE, 3):
        raise RecordError(
            f"{who} reads images of {SIDE}×{SIDE} pixels, but {candidate.image} has "
            f"{image.shape[1]}×{image.shape[0]}. Use it with a model that generates that size."
        )
    return image
