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
from typing import Any

from attrs import frozen

from srum_core.stages.interview import json_values
from srum_judges.parsing import Reading, spoken

Corners = tuple[float, float, float, float]
"""Two opposite corners (x0, y0, x1, y1) as the answer states them: any order, any unit."""

BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "boundingbox", "coordinates")
LABEL_KEYS = ("label", "name", "object", "class", "category", "description")
_LABEL_LENGTH = 200
_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")


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
    found, waiting = [], values[::-1]
    while waiting:
        value = waiting.pop()
        if corners := _corners(value):
            found.append(Stated(corners))
        elif isinstance(value, dict):
            item = _item(value)
            held = [each for each in value.values() if isinstance(each, dict | list) and not _is_plain(each)]
            if isinstance(item, Stated) or not held:
                found.append(item)
            else:
                waiting += held[::-1]
        elif isinstance(value, list) and not _is_plain(value):
            waiting += value[::-1]
        else:
            found.append(value)
    return found


def _item(value: dict[str, Any]) -> Any:
    named = {_key(name): each for name, each in value.items()}
    corners = next((found for key in BOX_KEYS if (found := _corners(named.get(key)))), None)
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
