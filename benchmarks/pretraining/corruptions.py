"""Corrupt images: named damages, and the appearance of images from a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from pretraining.scenes import Object, Scene, cell, compose, draw, free_cell, in_cell, place
from srum_benchmarks.shapes.checker import SIZES, Pixels
from srum_benchmarks.shapes.crowded import GRID
from srum_benchmarks.shapes.world import BACKGROUND, COLOURS, KINDS, RELATIONS, SHAPES, SIDE, crowded

DAMAGES = (
    "wrong colour",
    "wrong shape",
    "swapped colours",
    "smear",
    "blur",
    "merged",
    "mixed",
    "missing",
    "extra",
    "wrong relation",
    "wrong count",
)


def corrupt(damage: str, scene: Scene, tags: Mapping[str, Any], rng: np.random.Generator) -> Pixels:
    """Render a scene with one damage. An impossible one (a relation for a prompt without) becomes a wrong colour; in
    the crowded world a wrong relation is a wrong place, and a wrong count is a thing twice."""
    if crowded(tags) and damage in ("wrong relation", "wrong count", "extra"):
        return draw(_other_list(damage, scene, tags, rng))
    if damage == "wrong relation" and tags["relation"] is not None:
        return draw(_with_other_relation(scene, tags, rng))
    if damage == "wrong count" or (damage in ("missing", "extra") and tags["count"] is not None):
        return draw(_with_other_count(scene, rng, damage))
    if damage in ("smear", "blur"):
        image = draw(scene)
        for thing in _sample(scene, rng):
            (_smear if damage == "smear" else _soften)(image, thing, rng)
        return image
    if damage == "merged":
        return _merge(scene, rng)
    if damage == "mixed":
        return _mix(scene, rng)
    if damage == "missing":
        lost = _sample(scene, rng)
        return draw([thing for thing in scene if thing not in lost])
    if damage == "extra":
        return draw(place([*(thing.kind for thing in scene), pick(KINDS, rng)], rng, tags["relation"]))
    return draw(_with_other_kinds(damage, scene, rng))


def pick(choices: Any, rng: np.random.Generator) -> Any:
    return choices[rng.integers(len(choices))]


def _other(choices: Sequence[str], present: str, rng: np.random.Generator) -> str:
    return str(pick([choice for choice in choices if choice != present], rng))


def _other_list(damage: str, scene: Scene, tags: Mapping[str, Any], rng: np.random.Generator) -> Scene:
    if damage != "wrong relation":
        kind = pick(scene, rng).kind if damage == "wrong count" else pick(KINDS, rng)
        return (*scene, in_cell(kind, free_cell(scene, rng), rng))
    if not any(tags["places"]):
        return _with_other_kinds("wrong colour", scene, rng)
    one, other = (scene[i] for i in rng.permutation(len(scene))[:2].tolist())
    cells = {one: free_cell(scene, rng)} if rng.random() < 0.5 else {one: cell(other), other: cell(one)}
    return tuple(in_cell(thing.kind, cells[thing], rng) if thing in cells else thing for thing in scene)


def _reshaped(thing: Object, shape: str, rng: np.random.Generator) -> Object:
    """Give the thing another shape, in a size that this shape has in its world."""
    if thing.size in SIZES:
        return evolve(thing, shape=shape)
    return in_cell((thing.colour, shape), cell(thing), rng)


def _sample(scene: Scene, rng: np.random.Generator) -> list[Object]:
    """Sample one object, sometimes more."""
    count = 1 + int(rng.random() < 0.25) * int(rng.integers(len(scene)))
    return [scene[i] for i in rng.permutation(len(scene))[:count]]


def _with_other_kinds(damage: str, scene: Scene, rng: np.random.Generator) -> Scene:
    """Give objects another colour or shape, or swap the colours of two."""
    if damage == "swapped colours" and len(scene) > 1:
        one, other = (scene[i] for i in rng.permutation(len(scene))[:2])
        if one.colour != other.colour and one.shape != other.shape:
            swap = {one: evolve(one, colour=other.colour), other: evolve(other, colour=one.colour)}
            return tuple(swap.get(thing, thing) for thing in scene)
    while True:  # two changes can result in the same kinds: then repeat
        replacements = {}
        for thing in _sample(scene, rng):
            if damage == "wrong shape":
                replacements[thing] = _reshaped(thing, _other(SHAPES, thing.shape, rng), rng)
            else:
                replacements[thing] = evolve(thing, colour=_other(COLOURS, thing.colour, rng))
        other = tuple(replacements.get(thing, thing) for thing in scene)
        if sorted(thing.kind for thing in other) != sorted(thing.kind for thing in scene):
            return other


def _with_other_relation(scene: Scene, tags: Mapping[str, Any], rng: np.random.Generator) -> Scene:
    if rng.random() < 0.5:  # the mirror image is the most common mistake
        first, second = scene
        return tuple(evolve(to, colour=of.colour, shape=of.shape) for to, of in ((first, second), (second, first)))
    return compose({**tags, "relation": _other(RELATIONS, tags["relation"], rng)}, rng)


def _with_other_count(scene: Scene, rng: np.random.Generator, damage: str) -> Scene:
    """Remove an object, or add one of a kind in the scene."""
    count = len(scene)
    if damage == "wrong count":
        damage = "missing" if count > 1 and rng.random() < 0.5 else "extra"
    if damage == "missing" or count >= 4:
        return tuple(scene[i] for i in rng.permutation(count)[: count - 1])
    kinds = [thing.kind for thing in scene]
    return place([*kinds, pick(kinds, rng)], rng)


def _patch(thing: Object, reach: int = 1) -> tuple[slice, slice]:
    def span(start: int) -> slice:
        return slice(max(0, start - reach), min(SIDE, start + thing.size + reach))

    return span(thing.y), span(thing.x)


def _smear(image: Pixels, thing: Object, rng: np.random.Generator) -> None:
    """Shift an object's rows or columns by a random walk: it loses its outline and keeps its colour."""
    part = image[_patch(thing, 2)]
    lines = part if rng.random() < 0.5 else part.swapaxes(0, 1)
    shift = np.cumsum(rng.integers(-3, 4, len(lines)))
    for line, by in zip(lines, shift.tolist(), strict=True):
        line[:] = np.roll(line, by, axis=0)


def _soften(image: Pixels, thing: Object, rng: np.random.Generator) -> None:
    """Blur an object until it has hardly any shape."""
    part = image[_patch(thing, 2)]
    soft = part.astype(float)
    for _ in range(int(rng.integers(4, 12))):
        soft = blur(soft, 0.25)
    part[:] = np.clip(soft, 0, 255).astype(np.uint8)


def _merge(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Move an object partly onto another, or onto a copy if it is alone."""
    one = pick(scene, rng)
    others = [thing for thing in scene if thing is not one]
    onto = pick(others, rng) if others else one
    by = [int(step) for step in rng.integers(3, 7, 2) * rng.choice((-1, 1), 2)]
    x, y = (min(max(0, at + step), SIDE - one.size) for at, step in zip((onto.x, onto.y), by, strict=True))
    things = [evolve(one, x=x, y=y), *others] if others else [one, evolve(one, x=x, y=y)]
    return draw([things[i] for i in rng.permutation(len(things))])


def _mix(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Give part of an object another colour or shape, as models do."""
    thing = pick(scene, rng)
    if rng.random() < 0.5:
        other = evolve(thing, colour=_other(COLOURS, thing.colour, rng))
    else:
        other = _reshaped(thing, _other(SHAPES, thing.shape, rng), rng)
    image, second = draw(scene), draw([other if t is thing else t for t in scene])
    rows, columns = _patch(thing, 0)
    y, x = np.mgrid[rows, columns]
    angle = rng.uniform(0, 2 * np.pi)
    side = (x - thing.centre[0]) * np.cos(angle) + (y - thing.centre[1]) * np.sin(angle) > rng.uniform(-3, 3)
    image[rows, columns][side] = second[rows, columns][side]
    return image


def blur(image: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Mix every pixel with its neighbours, with weights (side, 1 - 2 side, side) along rows and columns."""
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        wide = np.pad(image, pad, mode="edge").swapaxes(0, axis)
        image = (side * (wide[:-2] + wide[2:]) + (1 - 2 * side) * wide[1:-1]).swapaxes(0, axis)
    return image


def _field(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Return a smooth random field over the image, (32, 32), values roughly in [0, 1]."""
    coarse = rng.random((cells, cells))
    at = np.linspace(0, cells - 1, SIDE)
    rows = np.stack([np.interp(at, np.arange(cells), line) for line in coarse])
    return np.stack([np.interp(at, np.arange(cells), line) for line in rows.T]).T


def model_like(image: Pixels, rng: np.random.Generator, small: bool = False) -> Pixels:
    """Add soft edges, noise of a few levels and a slight colour cast; sometimes fade part of the image, or add a faint
    object, which is `small` in the crowded world."""
    out = image.astype(float)
    if rng.random() < 0.15:  # part of the image fades into the background
        fade = np.clip(4 * (_field(rng, 5) - rng.uniform(0.15, 0.35)), 0, 1)[..., None]
        out = fade * out + (1 - fade) * np.array(BACKGROUND, float)
    if rng.random() < 0.1:
        if small:
            ghost = in_cell(pick(KINDS, rng), int(rng.integers(GRID * GRID)), rng)
        else:
            x, y = rng.integers(SIDE - SIZES[-1], size=2).tolist()
            ghost = Object(pick(COLOURS, rng), pick(SHAPES, rng), x, y, pick(SIZES, rng))
        out += rng.uniform(0.1, 0.4) * (draw([ghost]).astype(float) - BACKGROUND)
    out = blur(out, rng.uniform(0, 0.22))
    out = out + rng.normal(0, 4, 3) + rng.uniform(0, 12) * (_field(rng, 8)[..., None] - 0.5)
    out += rng.normal(0, rng.uniform(1, 8), out.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)
