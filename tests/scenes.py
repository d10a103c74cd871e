"""Scenes of the world of shapes as the checker would see them."""

from __future__ import annotations

from pretraining.scenes import Scene
from srum_benchmarks.shapes.checker import Thing, reading_order, shape_mask


def as_found(scene: Scene) -> tuple[Thing, ...]:
    """What `look` would see in a perfect image of a scene (without overlaps between its objects)."""
    return reading_order(
        Thing(t.colour, t.shape, (t.x, t.y, t.x + t.size, t.y + t.size), int(shape_mask(t.shape, t.size).sum()), 1.0)
        for t in scene
    )
