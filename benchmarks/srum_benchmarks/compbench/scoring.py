"""The protocol of the SRUM authors: one grade from 0 to 100 an image, the same rubric for all categories.

Their parser and their means are kept exactly (`reference_…`). Ours excludes values outside 0 to 100.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

BASE = ("color", "shape", "texture", "spatial", "non-spatial", "numeracy", "3d_spatial")
"""The columns of the paper's Table 1 that are one category each."""
COMPLEX = ("complex", "complex_action", "complex_spatial")
"""The three folders that the released code averages into the eighth column."""
RANGE = (0.0, 100.0)
"""Of a grade."""
_DIGITS = 1000
"""Longer numbers are no grades; Python reads up to 4300 digits."""
FAILED = -1
"""The reference's value of an unreadable answer: it stays in the mean."""
KNOWN_MESSAGES = {"two boys": "81b447ad0adb0396d3fb8f7d1c1be8e47ac11a4ac06c84cee0aafed02c40b635"}
"""A prompt and the SHA-256 of the reference's message about it: a template that gives it is the published rubric."""
_SCORE = re.compile(r'"score":\s*\d+')
_LOOSE = re.compile(r'"score":\s*"?(\d+)"?')


def reference_score(text: str) -> int:
    """The grade that the reference reads, -1 for none. Grades above 100 pass, decimals are cut off."""
    cleaned = text.strip().replace("```json", "").replace("```", "").strip()
    try:
        value = json.loads(_object(cleaned)).get("score")
        if isinstance(value, int):
            return value
    except (ValueError, RecursionError, AttributeError):
        pass  # text that is not JSON is searched instead
    match = _LOOSE.search(text)
    return int(match[1]) if match and len(match[1]) < _DIGITS else FAILED


def _object(text: str) -> str:
    """The reference's JSON object: from the first brace to the first one that closes after the last
    score that has one. Written without its regular expression, which backtracks."""
    last, first = text.rfind("}"), text.find("{")
    ends = [
        match.end() for match in _SCORE.finditer(text) if first != -1 and first < match.start() and match.end() <= last
    ]
    return text[first : text.index("}", ends[-1]) + 1] if ends else ""


def read(text: str) -> tuple[int | None, str]:
    """The grade, or None and why there is none."""
    score = reference_score(text)
    if score == FAILED:
        return None, 'The answer holds no "score": followed by a whole number.'
    if not RANGE[0] <= score <= RANGE[1]:
        return None, f"The score {score} is not between 0 and 100."
    return score, ""


def columns(categories: Sequence[str]) -> dict[str, float]:
    """The weight of each category's mean in the overall, for the categories that are there (all of the reference's
    weights where the complex column is)."""
    parts = [name for name in COMPLEX if name in categories]
    base = [name for name in categories if name not in COMPLEX]
    share = 1 / (len(base) + bool(parts)) if categories else 0.0
    return {**dict.fromkeys(base, share), **dict.fromkeys(parts, share / max(len(parts), 1))}
