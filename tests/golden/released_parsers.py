"""The reward parsers of SRUM's release, exactly, for tables that must be comparable with it.

They lose regions that are not apart by a blank line; srum's own judges read more (docs/method.md).
"""

from __future__ import annotations

import re
from typing import Any

_SCORE = re.compile(r"Score:\s*(-?\d+\.?\d*)", re.IGNORECASE)
_REASON = re.compile(r"Reason:\s*(.*)", re.IGNORECASE | re.DOTALL)
_OBJECT = re.compile(r"Identified Object:\s*(.*)", re.IGNORECASE)
_IMPRESSION = re.compile(r"Overall Impression:\s*(.*)", re.IGNORECASE)
_LAYOUT = re.compile(r"Composition Analysis:\s*(.*)", re.IGNORECASE | re.DOTALL)
_REGION = re.compile(r"Region ID:\s*(\d{1,300}+)(?!\d)", re.IGNORECASE)


def layout(text: str) -> dict[str, Any]:
    """Of the whole image's arrangement; {} without a score. The reason is all that follows the score."""
    text = _said(text)
    score = _SCORE.search(text)
    if not score:
        return {}
    remainder = text[score.end() :].strip()
    if remainder.lower().startswith("reason:"):
        remainder = remainder[len("reason:") :].strip()
    analysis = _LAYOUT.search(text)
    answer = {"layout_analysis": analysis[1].strip()} if analysis else {}
    return {**answer, "global_layout_score": float(score[1]), "reason": remainder}


def sample(text: str) -> dict[str, Any]:
    """Of the image as a whole."""
    return _fields(_said(text), _IMPRESSION)


def regions(text: str) -> dict[int, dict[str, Any]]:
    """Of every region, by its number: a region is a paragraph, whatever stands in it."""
    blocks = [block.strip() for block in _said(text).split("\n\n")]
    return {int(match[1]): _fields(block, _OBJECT) for block in blocks if (match := _REGION.search(block))}


def percent(score: float) -> float:
    """A score from -1 to 1 as one from 0 to 100."""
    return 50 * (score + 1)


def _said(text: str) -> str:
    return text.split("</think>")[-1].strip()


def _fields(text: str, thing: re.Pattern[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if match := thing.search(text):
        found["identified_object"] = match[1].strip()
    if match := _SCORE.search(text):
        found["score"] = float(match[1])
    if match := _REASON.search(text):
        found["reason"] = match[1].strip()
    return found
