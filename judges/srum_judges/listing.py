"""How questions list regions: by an id and a box, in one form for every judge that asks about several at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from srum_core.boxes import sides
from srum_core.records import Box, Candidate, Question, Region
from srum_judges import templates


class Listing(templates.Asking, Protocol):
    """Options that say how regions are asked about."""

    @property
    def boxes(self) -> str: ...
    @property
    def per_question(self) -> int: ...


def questions_about(candidate: Candidate, regions: Sequence[Region], template: str, options: Listing) -> list[Question]:
    """One question for each group of regions."""
    return [
        templates.question(candidate, template, options, regions=listing(candidate, some, options.boxes))
        for some in groups(regions, options.per_question)
    ]


def listing(candidate: Candidate, regions: Sequence[Region], unit: str) -> str:
    """The regions, their boxes in a unit of `srum_core.boxes.sides`, with rules between them and a final line break."""
    return "---\n".join(
        f"Region ID: {region.id}\nBounding Box: {show(region.box, sides(unit, candidate))}\n" for region in regions
    )


def groups(regions: Sequence[Region], size: int) -> list[Sequence[Region]]:
    """The regions of each question: at most `size`, 0 = all in one; no regions, no question."""
    size = size or max(len(regions), 1)
    return [regions[start : start + size] for start in range(0, len(regions), size)]


def show(box: Box, sides: tuple[float, float]) -> str:
    """A box as "[x0, y0, x1, y1]" in a picture of these sides; rounded outwards, so that no box becomes empty."""
    width, height = sides
    if sides == (1.0, 1.0):
        return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"
    x0, y0, x1, y1 = box
    slack = 1e-6  # 21 / 30 * 30 may be a hair above 21
    low = [math.floor(x0 * width + slack), math.floor(y0 * height + slack)]
    high = [math.ceil(x1 * width - slack), math.ceil(y1 * height - slack)]
    return "[" + ", ".join(str(value) for value in low + high) + "]"
