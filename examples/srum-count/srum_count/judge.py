"""Counts in prompts ("two dogs", "3 small red cubes") against counts in images. No torch, so tests take no time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_count import CountOptions

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_PLURAL = r"(?:[a-z]*[a-rt-z]s|people|men|women|children|mice|geese|sheep|fish)"
_COUNTED = re.compile(rf"\b({'|'.join(NUMBERS)}|[2-9]|[1-9][0-9])\s+((?:[a-z-]+\s+){{0,2}}?{_PLURAL})\b", re.I)
_ANSWER = re.compile(r"^\W*count\W*:\W*([0-9]{1,3})\W*$", re.I | re.M)


class Count:
    """One question for every number in the prompt; one score for the whole image, none where nothing is counted."""

    name = "count"

    def __init__(self, options: CountOptions | None = None) -> None:
        self.options = options or CountOptions()
        template = self.options.template or Path(__file__).parent / "count.txt"
        self.template = Path(template).read_text(encoding="utf-8")

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
        texts = [self.template.replace("{things}", things) for _, things in counted(candidate.prompt.text)]
        return [Question(candidate.image, text, max_new_tokens=self.options.max_new_tokens) for text in texts]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> list[Score | Unreadable]:
        """1 for the right number, 0 for half as many or half as many again, -1 for none or twice as many; the mean."""
        wanted = counted(candidate.prompt.text)
        seen = [set(_ANSWER.findall(answer)) for answer in answers]
        odd = [index for index, numbers in enumerate(seen) if len(numbers) != 1]
        if odd or not wanted:
            return [Unreadable(index, 'there is no line "Count: N", or several', judge=self.name) for index in odd]
        found = [int(numbers.pop()) for numbers in seen]
        values = [self._value(number, n) for (number, _), n in zip(wanted, found, strict=True)]
        pairs = zip(wanted, found, strict=True)
        reason = "; ".join(f"{things}: {number} asked for, {n} seen" for (number, things), n in pairs)
        return [Score(round(fmean(values), 4), reason=reason, judge=self.name)]

    def _value(self, wanted: int, seen: int) -> float:
        share = min(1.0, abs(seen - wanted) / wanted)
        return 1.0 if seen == wanted else -1.0 if self.options.strict else 1 - 2 * share


def counted(prompt: str) -> list[tuple[int, str]]:
    """What a prompt counts, in order. Not "one": a prompt with it seldom means that there must be no second."""
    found = [(number.lower(), things) for number, things in _COUNTED.findall(prompt)]
    return [(NUMBERS.get(number) or int(number), things) for number, things in found]
