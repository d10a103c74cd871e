"""The exact checker's judgement of an image: the scores of the oracle judge, and the answers that the
bundled model was trained to answer.

Scores. Whole image: 1.0 when all is as asked, else from 0.2 (a small share of it is wrong) down to -1.0 (nothing is
right) in steps of 0.2. Region: 1.0 for a required object, less than 0 for any other thing; REGION_SCORES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from srum_benchmarks.shapes.checker import PixelBox, Pixels, Thing, absent, holds, look, placed, read
from srum_benchmarks.shapes.world import SIDE, Kind, crowded, wanted
from srum_core.records import Box, Candidate, Prompt, Question, Region, Score, iou

ORACLE = "shapes-oracle"

BLOB = "blurred blob"
ALL_RIGHT = "all as asked"
RIGHT = "as asked"
PLACE = "wrong place"
"""Of an object of the crowded world that is required in another row or column."""
REGION_SCORES = {
    RIGHT: 1.0,
    "wrong colour": -0.6,
    "wrong shape": -0.6,
    PLACE: -0.6,
    "wrong object": -0.8,
    "extra object": -0.8,
    "distorted": -0.8,
}
"""By reason. "Wrong object" shares neither colour nor shape with what is missing; "extra": nothing is missing."""
MISSING = "missing object"
RELATION = "wrong relation"
COUNT = "wrong count"
FAULTS = ("distorted", "wrong colour", "wrong shape", PLACE, "wrong object", MISSING, "extra object", RELATION, COUNT)
"""Faults of a whole image; of several faults, the first in this order is named."""
COST = {"wrong colour": 0.8, "wrong shape": 0.8, PLACE: 0.8, RELATION: 0.8}
"""Cost of a fault in objects; 1 unless listed."""


@frozen
class Part:
    """One region and its correct judgement."""

    box: PixelBox
    label: str
    score: float
    reason: str


@frozen
class Lesson:
    image: Pixels
    prompt: Prompt
    score: float
    reason: str
    parts: tuple[Part, ...]
    """In reading order of their boxes, or in the order of the proposed ones."""
    kind: str
    """How the image came about: "clean", "mismatched", a corruption's name, or the caller's value."""
    missing: tuple[Kind, ...] = ()
    """The required objects that are missing (in their place), in the prompt's order."""


def appraise(image: Pixels, prompt: Prompt, kind: str = "", boxes: Sequence[PixelBox] | None = None) -> Lesson:
    """The correct judgement of any (32, 32, 3) image as an answer to a prompt, and of the objects in these boxes.

    Without boxes each thing that the checker finds is a part. A box that fits nothing the checker finds is a blob.
    """
    things = look(image, crowded(prompt.tags))
    reasons, missing = _reasons(things, prompt.tags)
    parts = [
        Part(thing.box, f"{thing.colour} {thing.shape}" if thing.shape else BLOB, REGION_SCORES[why], why)
        for thing, why in zip(things, reasons, strict=True)
    ]
    score, reason = _whole(things, reasons, missing, prompt.tags)
    if boxes is not None:
        parts = [_part_in(box, parts) for box in boxes]
    return Lesson(image, prompt, score, reason, tuple(parts), kind, tuple(absent(things, prompt.tags)))


def _part_in(box: PixelBox, parts: Sequence[Part]) -> Part:
    best = max(parts, key=lambda part: iou(box, part.box), default=None)
    if best is None or iou(box, best.box) < 0.5:
        return Part(box, BLOB, REGION_SCORES["distorted"], "distorted")
    return evolve(best, box=box)


def _reasons(things: tuple[Thing, ...], tags: Mapping[str, Any]) -> tuple[list[str], int]:
    """The reason for each object's score, and the number of required objects without a counterpart in the image."""
    left = wanted(tags)
    reasons = [""] * len(things)

    def settle(why: str, fits: Any) -> None:
        for i, thing in enumerate(things):
            if not reasons[i]:
                match = next((kind for kind, count in left.items() if count > 0 and fits(thing, kind)), None)
                if match is not None:
                    left[match] -= 1
                    reasons[i] = why

    kinds = [(colour, shape) for colour, shape in tags["objects"]]
    places = dict(zip(kinds, tags["places"], strict=True)) if crowded(tags) else {}

    settle(RIGHT, lambda thing, kind: thing.kind == kind and placed(thing, places.get(kind)))
    settle(PLACE, lambda thing, kind: thing.kind == kind)
    settle("distorted", lambda thing, kind: thing.shape is None and thing.colour == kind[0])
    settle("wrong colour", lambda thing, kind: thing.shape == kind[1])
    settle("wrong shape", lambda thing, kind: thing.shape is not None and thing.colour == kind[0])
    settle("distorted", lambda thing, kind: thing.shape is None)
    settle("wrong object", lambda thing, kind: True)
    for i, thing in enumerate(things):
        reasons[i] = reasons[i] or ("extra object" if thing.shape else "distorted")
    return reasons, left.total()


def _whole(things: tuple[Thing, ...], reasons: list[str], missing: int, tags: Mapping[str, Any]) -> tuple[float, str]:
    faults = [why for why in reasons if why != RIGHT] + [MISSING] * missing
    cost = sum(COST.get(why, 1.0) for why in faults)
    need = wanted(tags)
    slots = max(need.total(), len(things))
    if not faults and not holds(things, tags):
        faults, cost = [RELATION], COST[RELATION]
    if not faults:
        return 1.0, ALL_RIGHT
    # Only ever wrong in number: that is the fault, rather than missing or extra objects.
    number = tags["count"] is not None and all(thing.kind in need for thing in things) and bool(things)
    reason = COUNT if number else min(faults, key=FAULTS.index)
    return round(min(0.2, max(-1.0, 0.2 * round((0.4 - 1.4 * cost / slots) / 0.2))), 1) + 0.0, reason


# ---- the judge -------------------------------------------------------------------------------------------------------


class ShapesOracle:
    """The exact checker as a judge: a ceiling for what judging can give, and no self-reward. It asks nothing.

    Its result is that of `appraise`, the target on which the bundled model's judgement was trained: a global score, and
    one for each region given; in the crowded world also how many objects are missing.
    Raises RecordError for a prompt of another world, and for images that are not 32×32."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return ()

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Score]:
        image = read(candidate, f'The judge "{ORACLE}"')
        lesson = appraise(image, candidate.prompt, boxes=[_pixels(region.box) for region in regions])
        missing = len(lesson.missing) if crowded(candidate.prompt.tags) else None
        whole = Score(lesson.score, None, lesson.reason, ORACLE, missing=missing)
        parts = zip(regions, lesson.parts, strict=True)
        return [whole, *(Score(part.score, region.id, part.reason, ORACLE, part.label) for region, part in parts)]


def _pixels(box: Box) -> PixelBox:
    """The nearest whole pixels, at least one."""
    x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
    x0, y0 = min(x0, SIDE - 1), min(y0, SIDE - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
