"""The grounder `file`: boxes from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Question, Region, sides
from srum_core.runs.files import read_text
from srum_judges.options import FileOptions

_LIMITS = {"pixels": math.inf, "thousand": 1000.0, "fraction": 1.0}
_SHOWN = 20
Corners = tuple[float, float, float, float]


@frozen
class Entry:
    """The boxes of one image, or of every image of one prompt."""

    where: str
    """Its place in the file, for messages."""
    boxes: tuple[tuple[Corners, str], ...]
    """Corners in the file's unit, and a label."""


class BoxesFromFile:
    """Boxes out of a file, numbered from 1 in its order.

    A .jsonl file holds one entry a line, a .json file a list of them:

        {"image": "cat.png", "boxes": [[10, 20, 110, 220], {"box": [0, 0, 50, 50], "label": "a cat"}]}
        {"prompt_id": "7", "boxes": []}

    "image" is a candidate's id, its image's file name, or that name without its extension; "prompt_id" applies to all
    images of a prompt. They are tried in this order. A box is [left, top, right, bottom] in the option `boxes`.

    The file is read at once; ConfigError names everything that is wrong with it. In `regions` an image without an
    entry and a box that is not in its image raise ConfigError too: the file is user input, so it is a mistake.
    """

    def __init__(self, options: FileOptions | None = None) -> None:
        self.options = options or FileOptions()
        if not self.options.path:
            raise ConfigError('The grounder "file" needs the file with the boxes: set grounder.path=FILE.')
        self.path = Path(self.options.path)
        problems: list[str] = []
        self.images: dict[str, Entry] = {}
        self.prompts: dict[str, Entry] = {}
        for where, raw in _read(self.path):
            problems += self._add(where, raw)
        if problems:
            more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise ConfigError(f"The boxes in {self.path} cannot be used:\n  " + "\n  ".join(problems[:_SHOWN]) + more)

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        entry = self._entry(candidate)
        width, height = sides(self.options.boxes, candidate)
        regions = []
        for number, ((x0, y0, x1, y1), label) in enumerate(entry.boxes, start=1):
            if x1 > width or y1 > height:
                raise ConfigError(
                    f"{self.path}, {entry.where}: box {number} reaches to ({x1:g}, {y1:g}), but image {candidate.id} "
                    f"ends at ({width:g}, {height:g}). Correct the box, or the unit in grounder.boxes."
                )
            regions.append(Region(str(number), (x0 / width, y0 / height, x1 / width, y1 / height), label))
        return regions

    def _entry(self, candidate: Candidate) -> Entry:
        for name in (candidate.id, candidate.image.name, candidate.image.stem):
            if name in self.images:
                return self.images[name]
        if candidate.prompt.id in self.prompts:
            return self.prompts[candidate.prompt.id]
        raise ConfigError(
            f'{self.path} has no boxes for image {candidate.id} ({candidate.image.name}, prompt "'
            f'{candidate.prompt.id}"). If it has no regions, add an entry with "boxes": [].'
        )

    def _add(self, where: str, raw: Any) -> list[str]:
        """Store an entry, or report what is wrong with it."""
        keys = [key for key in ("image", "prompt_id") if isinstance(raw, dict) and key in raw]
        if len(keys) != 1 or not isinstance(raw[keys[0]], str) or not isinstance(raw.get("boxes"), list):
            return [f'{where} should be {{"image": "…" (or "prompt_id": "…"), "boxes": [[x0, y0, x1, y1], …]}}.']
        entries = self.images if keys[0] == "image" else self.prompts
        name = raw[keys[0]]
        if name in entries:
            return [f'{where} is about {keys[0]} "{name}" again; {entries[name].where} already is.']
        read = [_box(box, _LIMITS[self.options.boxes]) for box in raw["boxes"]]
        entries[name] = Entry(where, tuple(each for each in read if not isinstance(each, str)))
        return [f"{where}, box {i}: {each}" for i, each in enumerate(read, start=1) if isinstance(each, str)]


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries and their places. Raises ConfigError for a file that cannot be read or is no JSON."""
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _parse(path, line, number)
        return
    entries = _parse(path, text, 1)
    if not isinstance(entries, list):
        raise ConfigError(f"{path} should hold a list of entries. One entry a line goes into a .jsonl file.")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, start=1))


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {line + error.lineno - 1}: this is no JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise ConfigError(f"{path}, line {line}: this JSON cannot be read ({error}).") from error


def _box(raw: Any, limit: float) -> tuple[Corners, str] | str:
    """Corners and label, or their problem. The unit sets the limit; pixels have none before the image."""
    corners, label = (raw.get("box"), raw.get("label", "")) if isinstance(raw, dict) else (raw, "")
    if not isinstance(label, str):
        return f"the label {_short(label)} is no text."
    if not isinstance(corners, list) or len(corners) != 4 or not all(_is_number(each) for each in corners):
        return f'{_short(raw)} should be four numbers, [x0, y0, x1, y1], or {{"box": …, "label": "…"}}.'
    x0, y0, x1, y1 = corners
    if not (0 <= x0 < x1 <= limit and 0 <= y0 < y1 <= limit):
        end = "" if math.isinf(limit) else f" <= {limit:g}"
        return f"{_short(raw)} should have 0 <= x0 < x1{end} and 0 <= y0 < y1{end}."
    return (float(x0), float(y0), float(x1), float(y1)), label


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9


def _short(value: Any) -> str:
    return json.dumps(value)[:80]
