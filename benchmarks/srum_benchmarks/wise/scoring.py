"""Grades out of answers, and scores out of grades: the original's, BAGEL's, and those of the verified version.

Values are read as the published scorers read them: digits that are no grades pass there, and are refused by `read_…`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES = ("consistency", "realism", "aesthetic_quality")
WEIGHTS = {"consistency": 0.7, "realism": 0.2, "aesthetic_quality": 0.1}
_LEGACY = re.compile(r"\*{0,2}(Consistency|Realism|Aesthetic Quality)\*{0,2}\s*+(?::\s*+)?(\d)", re.IGNORECASE)
_BARE = re.compile(r"[ \t]*([012])[ \t]*")
_BINARY = re.compile(r"\*{0,2}Score\*{0,2}\s*+(?::\s*+)?([01])\b", re.IGNORECASE)

Grades = dict[str, float]


def legacy(text: str) -> Grades:
    """The grades that the original reads; the last one of a name counts. Without any name, three bare lines do."""
    found = named(_LEGACY, text)
    bare = [match[1] for line in text.strip().split("\n") if (match := _BARE.fullmatch(line))]
    if not found and len(bare) >= 3:
        return dict(zip(NAMES, map(float, bare), strict=False))
    return found


def binary(text: str) -> Grades:
    """The grade of the verified version, if the answer has one: the first that is named, or else the only bare line."""
    text = text.rpartition("</think>")[2]
    if match := _BINARY.search(text):
        return {"score": float(match[1])}
    bare = [line.strip() for line in text.split("\n") if line.strip() in ("0", "1")]
    return {"score": float(bare[0])} if len(bare) == 1 else {}


def named(pattern: re.Pattern[str], text: str) -> Grades:
    return {name.lower().replace(" ", "_"): float(digit) for name, digit in pattern.findall(text)}


def read_legacy(text: str) -> tuple[Grades | None, str]:
    """All three grades, or None and why not."""
    found = legacy(text)
    missing = [name for name in NAMES if name not in found]
    if missing:
        return None, f"The answer holds no grade for {', '.join(missing)}."
    odd = [f"{name} {value:.0f}" for name, value in found.items() if value > 2]
    return (None, f"Grades go from 0 to 2, not {', '.join(odd)}.") if odd else (found, "")


def wiscore(grades: Mapping[str, float]) -> float:
    """In [0, 1] for grades from 0 to 2."""
    return sum(weight * grades[name] for name, weight in WEIGHTS.items()) / 2
