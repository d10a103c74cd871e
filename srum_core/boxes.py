"""Boxes as fractions of a picture: how they overlap, which are near-duplicates, and units other than fractions."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Box, BoxFormat, Candidate, Region


def area(box: Box) -> float:
    """Share of the picture, in [0, 1]."""
    x0, y0, x1, y1 = box
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    common = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return common / (area(one) + area(other) - common)


def twin(box: Box, earlier: Sequence[Region], threshold: float) -> Region | None:
    """The first of the earlier regions that `box` overlaps by more than `threshold` (IoU); None if there is none."""
    return next((region for region in earlier if iou(box, region.box) > threshold), None)


def sides(unit: str, candidate: Candidate) -> tuple[float, float]:
    """(width, height) that a whole picture has in a unit: "pixels" of the stored file, "thousand", "fraction", or
    "model": what the answering model writes boxes in (`Candidate.boxes`; without it, stored pixels)."""
    seen: tuple[int, int] | None = candidate.size
    if unit == "model":
        told = candidate.boxes or BoxFormat()
        unit, seen = told.unit, told.seen or candidate.size
    if unit == "pixels":
        assert seen is not None
        return float(seen[0]), float(seen[1])
    return (1000.0, 1000.0) if unit == "thousand" else (1.0, 1.0)
