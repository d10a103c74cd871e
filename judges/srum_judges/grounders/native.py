"""The grounder `native`: the answering model itself proposes regions, as a list of boxes in JSON."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Box, Candidate, Question, Region, Unreadable, area, near_duplicate, sides
from srum_judges.grounders.box_json import Corners, read_boxes
from srum_judges.judges import ask, load
from srum_judges.options import NativeOptions


class Native:
    """Asks one question an image. Regions keep the order of the answer and are numbered from 1.

    Corners are put in order, boxes cut to the image; those that are too small, or too much like an earlier one, are
    dropped. An empty list is no region; an answer without any usable box is `Unreadable` and is requested again.
    Raises ConfigError for a template that cannot be used.
    """

    name = "native"

    def __init__(self, options: NativeOptions | None = None) -> None:
        self.options = options or NativeOptions()
        self.template = load(self.options.template, ["prompt"])

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        unit = _describe(sides(self.options.boxes, candidate))
        return [ask(candidate, self.template, self.options, unit=unit)]

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region | Unreadable]:
        (answer,) = answers
        listing = read_boxes(answer)
        if listing.why:
            return [Unreadable(0, listing.why, judge=self.name)]
        size = sides(self.options.boxes, candidate)
        kept: list[Region] = []
        for stated in listing.boxes:
            box = cut(stated.corners, size)
            if box is None or area(box) < self.options.min_area or near_duplicate(box, kept, self.options.duplicates):
                continue
            if len(kept) < self.options.max_regions:
                kept.append(Region(str(len(kept) + 1), box, stated.label))
        if listing.boxes and not kept:
            return [Unreadable(0, self._unusable(len(listing.boxes), size), judge=self.name)]
        return kept

    def _unusable(self, count: int, size: tuple[float, float]) -> str:
        return (
            f"None of the {count} boxes covers {self.options.min_area:g} of an image of {size[0]:g} by {size[1]:g}; "
            "the option `boxes` may not be what the model writes boxes in."
        )


def cut(corners: Corners, size: tuple[float, float]) -> Box | None:
    """A box in fractions, corners in order, cut to an image of `size`; None if nothing of it is in the image."""
    xs = sorted(_fraction(value, size[0]) for value in corners[0::2])
    ys = sorted(_fraction(value, size[1]) for value in corners[1::2])
    return (xs[0], ys[0], xs[1], ys[1]) if xs[0] < xs[1] and ys[0] < ys[1] else None


def _fraction(value: float, side: float) -> float:
    return min(max(0.0, value / side), 1.0)


def _describe(size: tuple[float, float]) -> str:
    """The unit of boxes, for the question."""
    if size == (1.0, 1.0):
        return "as fractions of the width and height of the picture, from 0 to 1"
    return f"in a picture that counts as {size[0]:g} wide and {size[1]:g} high"
