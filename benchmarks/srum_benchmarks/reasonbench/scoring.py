"""Scores out of answers, and accuracy out of scores, as the original computes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from srum_benchmarks.reasonbench.prompts import DIMENSIONS
from srum_core.stages.interview import json_values

ALLOWED = (0.0, 0.5, 1.0)
_LIST = re.compile(r'"score"\s*:\s*\[([^\[\]]*)\]')


def reference_json(text: str) -> Any:
    """The text that the original parses: from the first brace to the next one that closes. Raises ValueError where the
    original stops the run: another brace inside, a trailing comma, a stray quote, no JSON at all."""
    start = text.find("{")
    end = text.find("}", start)
    if start < 0 or end < 0:
        raise ValueError("there is no {…} in the answer")
    return json.loads(text[start : end + 1])


def read(text: str, count: int) -> tuple[list[float] | None, str, str]:
    """(the scores, how they were read, why not). Tries the original's way, then whole JSON objects, then the list
    alone; there must be `count` scores, each 0, 0.5 or 1."""
    why = "The answer holds no list of scores."
    for how, given in (("reference", _reference(text)), ("object", _objects(text)), ("list", _list(text))):
        if given is None:
            continue
        scores = [_score(each) for each in given] if isinstance(given, list) else []
        if len(scores) != count:
            why = f"The answer holds {len(scores)} scores for {count} questions."
        elif any(each not in ALLOWED for each in scores):
            why = "A score is none of 0, 0.5 and 1."
        else:
            return [each for each in scores if each is not None], how, ""
    return None, "", why


def _reference(text: str) -> Any:
    try:
        found = reference_json(text)
    except (ValueError, RecursionError):
        return None
    return found.get("score") if isinstance(found, dict) else None


def _objects(text: str) -> Any:
    """The list in the last JSON object of the answer that has one."""
    try:
        values, _ = json_values(text, "{", strict=True)
    except RecursionError:
        return None
    return next((value["score"] for value in reversed(values) if "score" in value), None)


def _list(text: str) -> list[str] | None:
    found = _LIST.findall(text)
    return [each.strip().strip('"') for each in found[-1].split(",")] if found else None


def _score(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def mean(scores: Sequence[Any]) -> float:
    """Of one group; scores may be texts, as the original allows."""
    return sum(float(each) for each in scores) / len(scores)


def accuracy(dimension: str, averages: Mapping[str, float]) -> float:
    """Reasoning accuracy of one image, in [0, 1], from the averages of its groups."""
    return sum(weight * averages[group] for group, weight in DIMENSIONS[dimension].weights.items())
