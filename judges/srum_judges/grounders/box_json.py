"""Reads boxes out of answers that should be JSON, as models really write it.

Read: what follows the last `</think>`, with any words or Markdown fences around the JSON; a list of objects, one
object, one object a line, an object that holds the list, a list of bare boxes; a list that was cut off, up to its last
complete object; numbers as strings. Not read: an unclosed think block; an object without a box; a box that is not four
finite numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from srum_judges.parsing import Reading, spoken

Corners = tuple[float, float, float, float]
"""Two opposite corners (x0, y0, x1, y1) as the answer states them: any order, any unit."""

BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "boundingbox", "coordinates")
LABEL_KEYS = ("label", "name", "object", "class", "category", "description")
_LONGEST = 50_000  # characters; no list of boxes is that long, and broken JSON takes time by the square of its length
_LABEL_LENGTH = 200
_DECODER = json.JSONDecoder(strict=False)
_OPENING = re.compile(r"[\[{]")
_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")


@frozen
class Stated:
    """A box that an answer states."""

    corners: Corners
    label: str = ""


@frozen
class Listing:
    """What an answer says: its boxes in order; or why it cannot be read. Neither = it says that there is nothing."""

    boxes: tuple[Stated, ...] = ()
    why: str = ""


def read_boxes(answer: str) -> Listing:
    """Never raises. Things listed without a proper box are passed over if anything else has one."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return Listing(why=text.why)
    if len(text) > _LONGEST:
        return Listing(why=f"The answer is {len(text)} characters long, which no list of boxes is.")
    try:
        values, broken = _values(text)
        items = [item for value in values if not _is_plain(value) for item in _items(value)]
    except RecursionError:
        return Listing(why="The JSON in the answer is nested too deeply.")
    boxes = tuple(item for item in items if isinstance(item, Stated))
    if boxes:
        return Listing(boxes)
    if items:
        return Listing(why=f"Nothing that the answer lists has a box of four finite numbers, for example {items[0]}.")
    if any(_is_empty(value) for value in values) and not broken:
        return Listing()
    return Listing(why="The answer holds no list of boxes in JSON.")


def _values(text: str) -> tuple[list[Any], bool]:
    """Every complete JSON list or object, from left to right; of one that is broken or cut off, the complete parts,
    and True."""
    values, broken = [], False
    start = _OPENING.search(text)
    while start:
        end = start.end()
        try:
            value, end = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except ValueError:  # words in brackets, or the JSON breaks off: look at what is inside
            broken = True
        start = _OPENING.search(text, end)
    return values, broken


def _items(value: Any) -> Iterator[Stated | str]:
    """The things that a JSON value lists: boxes, and the words of what has none."""
    if corners := _corners(value):
        yield Stated(corners)
    elif isinstance(value, dict):
        item = _item(value)
        held = [each for each in value.values() if isinstance(each, dict | list) and not _is_plain(each)]
        if isinstance(item, Stated) or not held:
            yield item
        else:
            yield from (item for each in held for item in _items(each))
    elif isinstance(value, list) and not _is_plain(value):
        yield from (item for each in value for item in _items(each))
    else:
        yield _words(value)


def _item(value: dict[str, Any]) -> Stated | str:
    named = {_key(name): each for name, each in value.items()}
    corners = next((found for key in BOX_KEYS if (found := _corners(named.get(key)))), None)
    labels = (named[key] for key in LABEL_KEYS if isinstance(named.get(key), str))
    return Stated(corners, _label(next(labels, ""))) if corners else _words(value)


def _is_plain(value: Any) -> bool:
    """A list of nothing but numbers and words. By itself it is a remark, as in "[1]", or a part of a broken object."""
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
