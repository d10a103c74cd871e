"""Recorded detections: one JSON object per line, keyed by the hash of the image's bytes. No torch.

    {"sha256": "…", "detections": [{"label": "dog", "box": [x0, y0, x1, y1], "score": 0.9, "color": "red"}, …]}

Boxes are pixels; "color" is a colour classifier's result for that detection, if there is one.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_benchmarks import files
from srum_core.errors import ConfigError
from srum_core.runs.files import read_file

Box = tuple[float, float, float, float]


@frozen
class Detection:
    """One object, with its box in pixels."""

    label: str
    box: Box
    score: float
    color: str = ""


@frozen
class Recorded:
    """All detections in a file, by the SHA-256 of the images."""

    path: str
    images: dict[str, tuple[Detection, ...]]

    def of(self, image: Path) -> tuple[Detection, ...]:
        """Raises ConfigError for an image without detections, RecordError for one that cannot be read."""
        sha = hashlib.sha256(read_file(image)).hexdigest()
        if sha not in self.images:
            raise ConfigError(
                f"{self.path} holds no detections of {image} (SHA-256 {sha[:12]}…). Run the detector on it; if the "
                "image was generated again since, its detections belong to another image."
            )
        return self.images[sha]


def read(name: str, benchmark: str) -> Recorded:
    """The records of a file. Raises ConfigError with the line of the first that cannot be used."""
    if not name:
        raise ConfigError(
            f"{benchmark} is scored from what a detector saw. Set the option `detections` to a file of JSON lines, "
            "one image per line; the docstring of srum_benchmarks.detections shows the format."
        )
    path = Path(name).expanduser()
    images: dict[str, tuple[Detection, ...]] = {}
    for number, record in files.read_objects(path):
        where = f"{path}, line {number}"
        sha, entries = record.get("sha256"), record.get("detections")
        if not isinstance(sha, str) or not isinstance(entries, list):
            raise ConfigError(f'{where}: a record needs "sha256" and a list "detections".')
        if sha in images:
            raise ConfigError(f"{where}: image {sha[:12]}… was recorded before. Keep one line of each image.")
        images[sha] = tuple(detection(each, where) for each in entries)
    return Recorded(name, images)


def detection(entry: Any, where: str) -> Detection:
    """One detection out of JSON. Raises ConfigError."""
    if isinstance(entry, dict) and isinstance(entry.get("label"), str):
        numbers = [*entry["box"], entry.get("score")] if isinstance(entry.get("box"), list) else []
        if len(numbers) == 5 and all(_number(each) for each in numbers):
            x0, y0, x1, y1, score = (float(each) for each in numbers)
            return Detection(entry["label"], (x0, y0, x1, y1), score, str(entry.get("color", "")))
    raise ConfigError(f'{where}: a detection needs "label", "box" [x0, y0, x1, y1] and "score", not {str(entry)[:80]}.')


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
