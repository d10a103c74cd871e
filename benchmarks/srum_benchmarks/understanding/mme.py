"""MME: two yes/no questions about each picture. Per task 100 x accuracy + 100 x (share of pictures with both right)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_CHINESE = re.compile("[\u4e00-\u9fa5]")


@frozen
class Scores:
    """Each task is out of 200."""

    tasks: Mapping[str, float]

    @property
    def perception(self) -> float:
        """Out of 2000."""
        return sum(self.tasks.get(task, 0.0) for task in PERCEPTION)

    @property
    def cognition(self) -> float:
        """Out of 800."""
        return sum(self.tasks.get(task, 0.0) for task in COGNITION)


def clean(answer: str) -> str:
    """One line in lower case, with yes and no for their Chinese words and for true and false."""
    for word, instead in (("\n", ""), ("不是", "No"), ("是", "Yes"), ("否", "No")):
        answer = answer.replace(word, instead)
    return _CHINESE.sub("", answer.lower().replace("true", "yes").replace("false", "no"))


def label(answer: str) -> str:
    """yes, no or other, from the first four characters of a cleaned answer: "not sure" is a no."""
    if answer in ("yes", "no"):
        return answer
    return next((word for word in ("yes", "no") if word in answer[:4]), "other")


def label_lmms(answer: str) -> str:
    """As lmms-eval has it: blanks around and full stops do not count, and a single y or n does."""
    answer = answer.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(answer, "other") if len(answer) == 1 else label(answer)


def score(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Of one task, from whether each picture's two questions were answered right; out of 200."""
    right = sum(one + other for one, other in pairs) / (2 * len(pairs))
    both = sum(one and other for one, other in pairs) / len(pairs)
    return 100 * right + 100 * both


def scores(answers: Mapping[str, Sequence[tuple[str, str]]], lmms: bool = False) -> Scores:
    """`answers`: task → (what is right, what was answered) in order, two for each picture."""
    tasks = {}
    for task, own in answers.items():
        if len(own) % 2:
            raise ValueError(f"MME has two questions for each picture, and {task} has {len(own)} answers")
        right = [_right(*each, lmms) for each in own]
        tasks[task] = score(list(zip(right[::2], right[1::2], strict=True)))
    return Scores(tasks)


def _right(truth: str, answer: str, lmms: bool) -> bool:
    said = label_lmms(answer) if lmms else label(clean(answer).lower())
    return said == truth.lower().strip()
