"""MathVista: what an answer comes down to, in the form in which the right one is written."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LETTER = re.compile(r"\(([a-zA-Z])\)")
_LONGEST = 1000
"""Characters of an answer that is compared with choices; the time for that grows with the product of the lengths."""
_FINAL = re.compile(r"(Final answer:|Answer:)\s*(.*)", re.IGNORECASE)


def quick_extract(answer: str, question_type: str, answer_type: str, choices: Sequence[str] | None) -> str:
    """The answer itself where it already is a choice or a number of the right type; else what follows "answer:". The
    published numbers ask a language model here instead."""
    if not answer or (question_type == "multi_choice" and answer in (choices or ())):
        return answer
    try:
        if answer_type == "integer":
            return str(int(answer))
        if answer_type == "float":
            return str(float(answer))
    except ValueError:
        pass  # no number as it stands: look inside
    match = _FINAL.search(answer)
    return match[2].strip() if match else answer


def normalised(
    extraction: str, choices: Sequence[str] | None, question_type: str, answer_type: str, precision: float | None
) -> str | None:
    """What is compared with the right answer; None for what is no number where one is asked for, or no choice."""
    if question_type == "multi_choice":
        return _choice(str(extraction).strip(), choices or ())
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), int(precision)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return str(extraction)


def _choice(extraction: str, choices: Sequence[str]) -> str | None:
    """The text behind a letter, or else the choice that needs the fewest changes; the first of equals. None for what is
    far too long to be a choice."""
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    found = _LETTER.findall(extraction)
    said = found[0].upper() if found else extraction
    if said in letters:
        return choices[letters.index(said)]
    return min(choices, key=lambda each: distance(said, each)) if len(said) <= _LONGEST else None


def distance(one: str, other: str) -> int:
    """Levenshtein's: how many characters must be put in, taken out or replaced."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        before, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (letter != wanted))
    return row[-1]
