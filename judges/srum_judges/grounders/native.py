"""The grounder `native`: the answering model itself proposes regions, as a list of boxes in JSON.

Read: what follows the last `</think>`, with any words or Markdown fences around the JSON; a list of objects, one
object, one object a line, an object that holds the list, a list of bare boxes; a list that was cut off, up to its last
complete object; numbers as strings. Not read: an unclosed think block; an object without a box; a box that is not four
finite numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from srum_core.records import Box, Candidate, Question, Region, Unreadable, area, near_duplicate, sides
from srum_core.stages.interview import json_values
from srum_judges.judges import ask, load
from srum_judges.options import NativeOptions
from srum_judges.parsing import Reading, spoken

Corners = tuple[float, float, float, float]
"""Two opposite corners (x0, y0, x1, y1) as the answer states them: any order, any unit."""

BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "boundingbox", "coordinates")
LABEL_KEYS = ("label", "name", "object", "class", "category", "description")
_LABEL_LENGTH = 200
_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")


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
        width, height = sides(self.options.boxes, candidate)
        unit = f"in a picture that counts as {width:g} wide and {height:g} high"
        if (width, height) == (1.0, 1.0):
            unit = "as fractions of the width and height of the picture, from 0 to 1"
        return [ask(candidate, self.template, self.options, unit=unit)]

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region | Unreadable]:
        (answer,) = answers
        listing = read_boxes(answer)
        if listing.why:
            return [Unreadable(0, listing.why, judge=self.name)]
        size = sides(self.options.boxes, candidate)
        regions: list[Region] = []
        for stated in listing.boxes:
            box = cut(stated.corners, size)
            if (
                box is None
                or area(box) < self.options.min_area
                or near_duplicate(box, regions, self.options.duplicates)
            ):
                continue
            if len(regions) < self.options.max_regions:
                regions.append(Region(str(len(regions) + 1), box, stated.label))
        if listing.boxes and not regions:
            why = (
                f"None of the {len(listing.boxes)} boxes covers {self.options.min_area:g} of an image of {size[0]:g} "
                f"by {size[1]:g}; the option `boxes` may not be what the model writes boxes in."
            )
            return [Unreadable(0, why, judge=self.name)]
        return regions


def cut(corners: Corners, size: tuple[float, float]) -> Box | None:
    """A box in fractions, corners in order, cut to an image of `size`; None if nothing of it is in the image."""
    xs = sorted(_fraction(value, size[0]) for value in corners[0::2])
    ys = sorted(_fraction(value, size[1]) for value in corners[1::2])
    return (xs[0], ys[0], xs[1], ys[1]) if xs[0] < xs[1] and ys[0] < ys[1] else None


def _fraction(value: float, side: float) -> float:
    return min(max(0.0, value / side), 1.0)


# ---- reading boxes ---------------------------------------------------------------------------------------------------


@frozen
class Stated:
    """A box that an answer states."""

    corners: Corners
    label: str = ""


@frozen
class Listing:
    """A parsed answer: its boxes in order; or why it cannot be read. Neither = it states that there is nothing."""

    boxes: tuple[Stated, ...] = ()
    why: str = ""


def read_boxes(answer: str) -> Listing:
    """Never raises. Entries without a valid box are skipped if another one has one."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return Listing(why=text.why)
    try:
        values, broken = json_values(text)
    except RecursionError:
        return Listing(why="The JSON in the answer is nested too deeply.")
    items = _items([value for value in values if not _is_plain(value)])
    boxes = tuple(item for item in items if isinstance(item, Stated))
    if boxes:
        return Listing(boxes)
    if items:
        why = f"Nothing that the answer lists has a box of four finite numbers, for example {_words(items[0])}."
        return Listing(why=why)
    if any(_is_empty(value) for value in values) and not broken:
        return Listing()
    return Listing(why="The answer holds no list of boxes in JSON.")


def _items(values: list[Any]) -> list[Any]:
    """The entries of JSON values, in order: a `Stated` for each box, and entries without a box unchanged."""
    items, waiting = [], values[::-1]
    while waiting:
        value = waiting.pop()
        if corners := _corners(value):
            items.append(Stated(corners))
        elif isinstance(value, dict):
            item = _item(value)
            inner = [each for each in value.values() if isinstance(each, dict | list) and not _is_plain(each)]
            if isinstance(item, Stated) or not inner:
                items.append(item)
            else:
                waiting += inner[::-1]
        elif isinstance(value, list) and not _is_plain(value):
            waiting += value[::-1]
        else:
            items.append(value)
    return items


def _item(value: dict[str, Any]) -> Any:
    named = {_key(name): each for name, each in value.items()}
    corners = next((match for key in BOX_KEYS if (match := _corners(named.get(key)))), None)
    labels = (named[key] for key in LABEL_KEYS if isinstance(named.get(key), str))
    return Stated(corners, _label(next(labels, ""))) if corners else value


def _is_plain(value: Any) -> bool:
    """A list of nothing but numbers and words. Alone it is a remark, as in "[1]", or a part of a broken object."""
    return isinstance(value, list) and bool(value) and not any(isinstance(each, dict | list) for each in value)


def _is_empty(value: Any) -> bool:
    return value == [] or (isinstance(value, dict) and any(each == [] for each in value.values()))


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _corners(value: Any) -> Corners | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [number for each in value if (number := _number(each)) is not None]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def _number(value: Any) -> float | None:
    """A finite number, also as a string; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # float() knows fewer kinds of white space than the pattern
        return None
    return number if math.isfinite(number) else None


def _label(text: str) -> str:
    """On one line, not too long, and with nothing that cannot be written as UTF-8."""
    return " ".join(text.split())[:_LABEL_LENGTH].encode("utf-8", "replace").decode()


def _words(value: Any) -> str:
    return _label(json.dumps(value, default=str))[:80]
