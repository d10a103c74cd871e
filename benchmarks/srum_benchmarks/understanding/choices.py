"""Letters out of answers to multiple-choice questions (MMBench, MMMU, MMVP), and MMVP's pairs; MM-Vet's mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

OTHERWISE = "C"
"""What an empty answer counts as in BAGEL's MMBench and MMMU scripts. Its MMVP script stops."""
_LETTER = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\s*\(?([AB])\)?\.?\s*$",
        r"^\s*\(?([AB])\)?[.\s]",
        r"answer\s+is\s+\(?([AB])\)?",
        r"option\s+\(?([AB])\)?",
        r"\(?([AB])\)?(?:\s|$)",
    )
)


def letter(answer: str, options: Mapping[str, str], empty: str = OTHERWISE) -> str:
    """One character as it is; else the first one if it is an option; else the first option whose text occurs in it;
    else the answer itself."""
    answer = answer.strip()
    if not answer:
        return empty
    if len(answer) == 1:
        return answer
    if answer[0] in options:
        return answer[0]
    return next((name for name, text in options.items() if text in answer), answer)


def mmvp_letter_lmms(answer: str) -> str:
    """A, B, or "" as lmms-eval has it."""
    answer = answer.strip()
    match = next((match for pattern in _LETTER if (match := pattern.search(answer))), None)
    if match:
        return match[1].upper()
    return answer[0].upper() if answer[:1].upper() in ("A", "B") and answer else ""


@frozen
class Pairs:
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0


def mmvp_pairs(right: Sequence[bool]) -> Pairs:
    """Of the questions in order, two and two; a last one without its partner does not count."""
    both = [one and other for one, other in zip(right[::2], right[1::2], strict=False)]
    return Pairs(sum(both), len(both))


def mmvet(grades: Sequence[float]) -> float:
    """100 x the mean of grades from 0 to 1."""
    return 100 * sum(grades) / len(grades)
