"""Scenes of the world of shapes as the checker would see them."""

from __future__ import annotations

from srum_benchmarks.shapes.checker import Found, reading_order
from srum_benchmarks.shapes.render import Scene, shape_mask


def as_found(scene: Scene) -> tuple[Found, ...]:
    """What `look` would see in a perfect image of a scene (without overlaps between its objects)."""
    return reading_order(
        Found(t.colour, t.shape, (t.x, t.y, t.x + t.size, t.y + t.size), int(shape_mask(t.shape, t.size).sum()), 1.0)
        for t in scene
    )
